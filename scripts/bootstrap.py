"""Make `.venv` match `requirements.lock`: the one step between python3 and a working project.

Invariant: `.venv/.ready` is written last, so a set-up that was interrupted is never taken for a finished one.
It holds a digest of everything the environment is made from, which is why a second run costs milliseconds.
Only the standard library is used, and nothing is resolved here: `make lock` does that.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
READY = VENV / ".ready"

# uv does not read pip's settings; they are handed on, so that both ask the same index in the same way.
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}


def main() -> None:
    """Bring the environment up to date; return at once when it is."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = ".".join(str(part) for part in sys.version_info[:3])
        sys.exit(f"setup: expected Python 3.11 to 3.13, found {found}; name another: make setup PYTHON=python3.12")
    with LOCK.open(encoding="utf-8") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # two makes at once take turns
        if not (PYTHON.exists() and READY.exists() and READY.read_text(encoding="utf-8") == digest()):
            install()


def digest() -> str:
    """Digest what the environment is made from: interpreter, place, lock, project, what is compiled, this script."""
    content = hashlib.sha256(f"{sys.version} {sys.base_prefix} {ROOT}".encode())
    compiled = sorted([*ROOT.glob("setup.py"), *ROOT.glob("serving/scorer/*.p?[xd]")])
    for file in (LOCK, ROOT / "pyproject.toml", *compiled, Path(__file__)):
        content.update(file.read_bytes())
    return content.hexdigest()


def install() -> None:
    """Create the environment where there is none, then install uv, the locked packages and the project."""
    started = time.monotonic()
    READY.unlink(missing_ok=True)
    create_environment()
    install_uv()
    settings = {**os.environ, **uv_settings()}
    say("installing the locked packages")
    run(UV, "pip", "sync", "--require-hashes", "--build-constraints", LOCK, LOCK, env=settings)
    for built in ROOT.glob("serving/scorer/*.so"):  # what cannot be built anew is not what it was
        built.unlink()
    say("installing the project, editable")
    run(UV, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT, env=settings)
    READY.write_text(digest(), encoding="utf-8")
    say(f"ready after {time.monotonic() - started:.0f} s")


def create_environment() -> None:
    """Create `.venv`, from nothing when the one that stands there is another Python's or was moved."""
    activate = VENV / "bin" / "activate"
    made_here = activate.exists() and re.search(
        rf"^ *(?:export )?VIRTUAL_ENV=['\"]?{re.escape(str(VENV))}['\"]?$", activate.read_text(), re.MULTILINE
    )
    if made_here and answer(PYTHON, "-c", "import sys; print(sys.version)") == sys.version:
        return
    say(f"creating .venv with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    try:
        run(sys.executable, "-m", "venv", VENV)
    except subprocess.CalledProcessError:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit("setup: this Python cannot create an environment; on Debian: apt-get install python3-venv")


def install_uv() -> None:
    """Install uv through pip, at the version and with the hashes that the lock names."""
    pinned = re.search(r"^uv==(\S+) .*(?:\n {4}.*)*", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is None:
        sys.exit(f"setup: expected a line uv==<version> in {LOCK.name}, found none; restore the file from git")
    if UV.exists() and answer(UV, "--version").split()[1:2] == [pinned[1]]:
        return
    say(f"installing uv {pinned[1]}")
    if not (VENV / "bin" / "pip").exists():
        run(PYTHON, "-m", "ensurepip")
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder, "uv.txt")
        requirement.write_text(pinned[0] + "\n", encoding="utf-8")
        run(PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", requirement)


def uv_settings() -> dict[str, str]:
    """Translate pip's configuration (files and PIP_ variables) for uv; a UV_ variable that is set wins."""
    settings = {"VIRTUAL_ENV": str(VENV)}
    question = ("-m", "pip", "config", "list")
    listed = answer(PYTHON, *question) or answer(sys.executable, *question)
    for key, value in re.findall(r"^\S+?\.([a-z-]+)='(.*)'$", listed, re.MULTILINE):
        name = PIP_TO_UV.get(key)
        places = [part for part in value.split() if "://" in part or "/" not in part or Path(part).exists()]
        if name is not None and name not in os.environ and places:
            settings[name] = (" " if name != "UV_FIND_LINKS" else ",").join(places)
    return settings


def answer(*command: object) -> str:
    """Return what a command prints; empty when it fails or is not there."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def run(*command: object, env: dict[str, str] | None = None) -> None:
    """Run a command that shows its own progress; raise CalledProcessError when it fails."""
    subprocess.run([str(part) for part in command], check=True, env=env, cwd=ROOT)


def say(line: str) -> None:
    """Tell the person waiting what happens next."""
    print(f"==> {line}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(f"setup: {' '.join(failed.cmd[:4])} ... ended with status {failed.returncode}; see the lines above")
