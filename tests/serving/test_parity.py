"""What the sidecar logged is what the registry's package says, and a replay finds out where it is not."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_core.flow.parity import replay
from serving.follower import Follower
from serving.http import Sidecar
from serving.log import LogSettings, PredictionLog
from tests.serving.asking import OTHER, ROW, ask_application


@pytest.fixture
def files(follower: Follower, registry: Any, tmp_path: Path) -> list[Path]:
    """Return a log of three rows by version 7, and then three by version 8."""
    registry.add(8)
    application = Sidecar(follower, log=PredictionLog(LogSettings(tmp_path / "log")))
    for version in (7, 8):
        registry.promote(version)
        follower.step()
        status, headers, _ = ask_application(application, "/invocations", {"dataframe_records": [ROW, OTHER, ROW]})
        assert (status, headers["x-model-version"]) == (200, str(version))
    application.close()
    return sorted((tmp_path / "log").glob("*.parquet"))


def test_what_was_served_is_what_the_registry_says(files: list[Path], registry: Any) -> None:
    """The promise that a logged request recomputed offline gives the same score."""
    found = replay(files, registry, "f")
    assert (found.rows, found.mismatched, found.mismatch_rate, found.reasons) == (6, 0, 0.0, ())
    assert found.worst <= 1e-6


def test_a_score_that_was_not_the_models_is_found(files: list[Path], registry: Any) -> None:
    """One wrong row in six is a rate, with the version to look at."""
    table = pq.read_table(files[0])
    scores = table.column("score").to_pylist()
    altered = pa.array([scores[0] + 0.25, *scores[1:]], pa.float32())
    pq.write_table(table.set_column(table.schema.get_field_index("score"), "score", altered), files[0])
    found = replay(files, registry, "f")
    assert (found.rows, found.mismatched) == (6, 1)
    assert found.worst == pytest.approx(0.25, abs=1e-6)
    assert "1 of 3 rows" in found.reasons[0]


@pytest.mark.parametrize("gone", [True, False], ids=["deleted", "published anew"])
def test_rows_of_a_version_that_is_no_longer_the_one_served_do_not_agree(
    files: list[Path], registry: Any, gone: bool
) -> None:
    """Nobody can say any more what it should have answered."""
    if gone:
        del registry.refs[7]
    else:
        registry.root = registry.root / "anew"
        registry.add(7, graph=None, signature={"carrier": "string", "hour": "float"})
    found = replay(files, registry, "f")
    assert (found.rows, found.mismatched, len(found.reasons)) == (6, 3, 1)
    assert found.worst == float("inf")


def test_nothing_logged_is_no_mismatch(registry: Any) -> None:
    """A sidecar that nobody has asked yet is not a broken one."""
    assert replay([], registry, "f").mismatch_rate == 0.0
