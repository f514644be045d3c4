"""Bearer tokens: who is let in, and how the file is read again."""

import logging
import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from ml_core.errors import PlatformError
from serving.access import Tokens
from tests.serving.asking import ROW, ask_application


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# team a\nfirst-token\n\n  second-token\n")
    return path


@pytest.mark.parametrize(
    ("header", "known"),
    [
        (b"Bearer first-token", True),
        (b"bearer second-token", True),
        (b"Bearer first-toke", False),
        (b"Bearer first-token2", False),
        (b"Bearer # team a", False),
        (b"Bearer ", False),
        (b"Basic first-token", False),
        (b"first-token", False),
        (b"", False),
    ],
)
def test_a_token_of_the_file_and_no_other_is_known(file: Path, header: bytes, known: bool) -> None:
    """A comment or an empty line must never be a key."""
    assert Tokens(file).hold(header) is known


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tokens are rotated while requests come in; a mistake in doing so must lock nobody out, and nobody in."""
    tokens = Tokens(file)
    replacement = file.with_name("new")
    replacement.write_text("third-token\n")
    os.replace(replacement, file)  # noqa: PTH105 - what tools that rotate secrets do
    tokens.reload()
    assert tokens.hold(b"Bearer third-token")
    assert not tokens.hold(b"Bearer first-token")
    with caplog.at_level(logging.ERROR, "modelflow.serving"):
        file.write_text("# nothing left\n")
        tokens.reload()
        tokens.reload()
        file.unlink()
        tokens.reload()
    assert tokens.hold(b"Bearer third-token")
    assert len(caplog.records) == 1
    assert "third-token" not in caplog.text
    file.write_text("fourth-token")
    tokens.reload()
    assert tokens.hold(b"Bearer fourth-token")
    assert not tokens.hold(b"Bearer third-token")


@pytest.mark.parametrize("content", [None, "", "# only a comment\n"])
def test_a_start_without_a_token_is_refused(tmp_path: Path, content: str | None) -> None:
    """A sidecar that was meant to be closed must not start open, nor closed to everybody."""
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PlatformError, match="one a line"):
        Tokens(path)


def test_everything_but_probes_takes_a_token(follower: Any, file: Path) -> None:
    """Orchestrators probe without secrets; rows, metrics and lineage are for those who may see them."""
    from serving.http import Sidecar

    application = Sidecar(follower, tokens=Tokens(file))
    for path in ("/ping", "/health", "/v2/health/ready", "/v2/health/live"):
        assert ask_application(application, path)[0] == 200, path
    for path in ("/version", "/status", "/metrics", "/v2", "/v2/models/f", "/v2/models/f/ready"):
        assert ask_application(application, path)[0] == 401, path
    for path in ("/invocations", "/v2/models/f/infer"):
        status, headers, answer = ask_application(application, path, {"inputs": ROW})
        assert (status, headers["www-authenticate"], answer["error_code"]) == (401, "Bearer", "UNAUTHORIZED"), path
    admitted = {"authorization": "Bearer first-token", "content-type": "application/json"}
    assert ask_application(application, "/invocations", {"inputs": ROW}, headers=admitted)[0] == 200
    assert ask_application(application, "/status", headers=admitted)[0] == 200


def test_over_tls_with_a_token_and_without_one(sidecar: Any, rest_registry: Any, file: Path, tmp_path: Path) -> None:
    """Where the sidecar is not on loopback, a token without TLS is for everybody to read."""
    import http.client
    import json
    import time

    certificate, key = _certificate(tmp_path)
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    options = ("--tokens", str(file), "--certificate", str(certificate), "--key", str(key))
    running = sidecar("models:/f/Production", rest_registry.uri, *options, wait=False)
    context = ssl.create_default_context(cafile=str(certificate))

    def ask(path: str, token: str) -> int:
        connection = http.client.HTTPSConnection("127.0.0.1", running.port, timeout=10, context=context)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        try:
            connection.request("POST", path, json.dumps({"inputs": ROW}), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def status(token: str) -> int:
        try:
            return ask("/invocations", token)
        except OSError:
            return 0

    deadline = time.monotonic() + 15
    while status("first-token") != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status("first-token") == 200
    assert status("stolen") == 401
    file.write_text("rotated\n")
    while status("rotated") != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status("rotated") == 200
    assert status("first-token") == 401
    with pytest.raises((OSError, http.client.HTTPException)):
        running.request("GET", "/ping")  # without TLS
    assert running.terminate() == 0


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1, signed by itself."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sidecar")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return files
