"""What the project is made of: a CycloneDX list of every lock, and what an advisory database knows about them.

`sbom` needs the package index for its tool, `audit` needs the advisory database as well; both tools are run in
environments of their own, at the versions named here.
"""

import os
import subprocess
import sys

from scripts.bootstrap import ROOT, UV, uv_settings

LOCKS = [ROOT / "requirements.lock", *sorted((ROOT / "docker").glob("*-requirements.lock"))]
SBOM = "cyclonedx-bom==7.5.0"
AUDIT = "pip-audit==2.10.1"


def sbom() -> int:
    """Write `var/sbom/<lock>.json` for every lock."""
    folder = ROOT / "var" / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for lock in LOCKS:
        target = folder / f"{lock.stem}.json"
        run(SBOM, "cyclonedx-py", "requirements", "--output-reproducible", "--output-file", str(target), str(lock))
        print(f"{target.relative_to(ROOT)}")
    return 0


def audit() -> int:
    """Ask about every lock; return 1 where something is known."""
    known = 0
    for lock in LOCKS:
        print(f"==> {lock.name}", flush=True)
        known |= run(AUDIT, "pip-audit", "--require-hashes", "--disable-pip", "-r", str(lock), check=False)
    return 1 if known else 0


def run(package: str, program: str, *arguments: str, check: bool = True) -> int:
    """Run a tool of the package index in an environment of its own."""
    command = [str(UV), "tool", "run", "--quiet", "--from", package, program, *arguments]
    return subprocess.run(command, check=check, env={**os.environ, **uv_settings()}).returncode


if __name__ == "__main__":
    sys.exit({"sbom": sbom, "audit": audit}[sys.argv[1]]())
