"""Add pyspark to `.venv` from its own lock: several hundred megabytes that only flows with `engine = "spark"` need.

It is left out of `requirements.lock`, so a later `make setup` that installs anew removes it again. Nothing is resolved
here: `make lock` does that.
"""

import fcntl
import os

from scripts.bootstrap import LOCK, PYTHON, ROOT, UV, answer, run, say, uv_settings

SPARK_LOCK = ROOT / "docker" / "spark-requirements.lock"


def main() -> None:
    """Install what the lock names; return at once when it is there."""
    wanted = next(
        line.split()[0] for line in SPARK_LOCK.read_text(encoding="utf-8").splitlines() if "pyspark==" in line
    )
    with SPARK_LOCK.open(encoding="utf-8") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # two at once take turns
        version = "import importlib.metadata as m; print('pyspark==' + m.version('pyspark'))"
        if answer(PYTHON, "-c", version) == wanted:
            return
        say(f"installing {wanted}")
        settings = {**os.environ, **uv_settings()}
        hashed = ("--require-hashes", "--build-constraints", LOCK, "--requirement", SPARK_LOCK)
        run(UV, "pip", "install", "--quiet", "--python", PYTHON, *hashed, env=settings)


if __name__ == "__main__":
    main()
