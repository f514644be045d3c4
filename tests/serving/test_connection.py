"""Connections: the short way and uvicorn's own give the same answers, and slow callers come to an end."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.asking import OTHER, ROW

FOLLOW = ("models:/f/Production",)
BODY = json.dumps({"dataframe_records": [ROW, OTHER]}).encode()
HEAD = b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def post(body: bytes = BODY, *headers: bytes) -> bytes:
    """Return the bytes of a request."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return HEAD + lines + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
def running(sidecar: Any, rest_registry: Any) -> Any:
    """Return a sidecar with short patience."""
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    running = sidecar(*FOLLOW, rest_registry.uri, "--deadline", "0.5")
    running.wait_version(1)
    return running


@pytest.fixture
def wire(running: Any) -> Iterator[socket.socket]:
    """Return a connection to it."""
    with socket.create_connection(("127.0.0.1", running.port), 20) as connection:
        yield connection


def answers(connection: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Read answers that came one after the other."""
    read, stream = [], connection.makefile("rb")
    for _ in range(count):
        status = int(stream.readline().split()[1])
        headers = dict(http.client.parse_headers(stream).items())
        read.append((status, headers, stream.read(int(headers["content-length"]))))
    return read


def until_closed(connection: socket.socket) -> bytes:
    """Read all there is until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "body",
    [BODY, b"nonsense", b"{}", b'{"inputs": {"carrier": "UA"}}', json.dumps({"inputs": ROW}).encode()],
)
def test_both_ways_give_the_same_answer(wire: socket.socket, body: bytes) -> None:
    """Which way a request goes must be nobody's business but the clock's."""
    long_way = post(body, b"expect: 100-continue")
    wire.sendall(post(body))
    (short,) = answers(wire, 1)
    wire.sendall(long_way)
    went_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.recv(len(went_on), socket.MSG_WAITALL) == went_on
    assert answers(wire, 1) == [short]


def test_requests_in_one_packet_are_answered_in_their_order(wire: socket.socket) -> None:
    """Some clients do not wait for an answer before they ask again; short and long ones may be mixed."""
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    get = b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n"
    asked = [post(), post(b"{}"), get, post(), chunked, post(b"nonsense"), get, post()]
    wire.sendall(b"".join(asked))
    statuses = [status for status, _, _ in answers(wire, len(asked))]
    assert statuses == [200, 400, 200, 200, 200, 400, 200, 200]


def test_a_request_may_come_byte_by_byte(wire: socket.socket) -> None:
    """TCP cuts where it likes."""
    request = post(json.dumps({"inputs": ROW}).encode())
    for at in range(len(request)):
        wire.sendall(request[at : at + 1])
    assert answers(wire, 1)[0][0] == 200


def test_an_id_is_given_back_and_an_unprintable_one_replaced(wire: socket.socket) -> None:
    """A caller finds its request in the log by the id it gave; nobody writes into our headers or log."""
    wire.sendall(post(BODY, b"x-request-id: order-42") + post(BODY, b"x-request-id: a\xffb") + post())
    known, replaced, without = answers(wire, 3)
    assert known[1]["x-request-id"] == "order-42"
    assert replaced[1]["x-request-id"].isascii()
    assert "x-request-id" not in without[1]


@pytest.mark.parametrize("header", [b"connection: close", b"connection: Close"])
def test_a_caller_that_wants_to_end_is_let_go(wire: socket.socket, header: bytes) -> None:
    """Otherwise it would wait for our time-out."""
    wire.sendall(post(BODY, header))
    answer = until_closed(wire)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (post()[:-5], b"HTTP/1.1 408"),  # its body never ends, on the short way
        (HEAD + b"content-length: 1000000\r\n\r\n{", b"HTTP/1.1 408"),  # and on the other
        (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n", b"HTTP/1.1 408"),
        (HEAD + b"content-length: 10000000000\r\n\r\n{", b"HTTP/1.1 413"),  # announced as larger than allowed
        (HEAD + b"x-large: " + b"x" * 40_000 + b"\r\n\r\n", b"HTTP/1.1 431"),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400"),
        (HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n12345", b"HTTP/1.1 400"),
        (HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 400"),
    ],
)
def test_what_never_ends_or_cannot_be_read_is_answered_and_closed(
    wire: socket.socket, running: Any, sent: bytes, told: bytes
) -> None:
    """Every open connection that leads nowhere is one that somebody else cannot have."""
    wire.sendall(sent)
    assert until_closed(wire).startswith(told)
    assert running.request("POST", "/invocations", BODY)[0] == 200


def test_a_caller_that_does_not_read_its_answers_is_cut_off(running: Any) -> None:
    """Answers nobody takes would pile up in our memory."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(20)
        deaf.connect(("127.0.0.1", running.port))
        request = post(json.dumps({"inputs": {name: [ROW[name]] * 2000 for name in ROW}}).encode())
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            deaf.sendall(request * 2_000)
    assert running.request("POST", "/invocations", BODY)[0] == 200


def test_term_answers_what_is_on_its_way_and_closes_what_is_silent(running: Any) -> None:
    """A pool of connections must not lose the request it sends while the process is told to end."""
    address = ("127.0.0.1", running.port)
    with socket.create_connection(address, 20) as silent, socket.create_connection(address, 20) as busy:
        for connection in (silent, busy):
            connection.sendall(post())
            assert answers(connection, 1)[0][0] == 200
        running.process.terminate()
        running.wait(lambda _: _refused(running.port), "no longer listening")
        busy.sendall(post())
        last = until_closed(busy)
        assert last.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in last
        assert until_closed(silent) == b""
    assert running.process.wait(10) == 0


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
