"""The check between the feature table and training: what it reports, and what it stops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml_core.data import FeatureStore
from tests.orchestration.conftest import World


def evaluated(world: World) -> Any:
    tags = {f"dagster/asset_partition_range_{bound}": "2024-05-01" for bound in ("start", "end")}
    result = world.run("ingest", tags, raise_on_error=False)
    (found,) = result.get_asset_check_evaluations()
    assert result.success is found.passed
    return found


def infinite(rows: pa.Table) -> pa.Table:
    place = rows.schema.get_field_index("recent")
    return rows.set_column(place, "recent", pa.array(np.full(rows.num_rows, np.inf), pa.float32()))


def test_sound_examples_pass_and_their_label_delay_is_shown(world: World) -> None:
    world.drop(range(2))
    found = evaluated(world)
    assert found.passed
    assert found.metadata["label_delay_hours_median"].value == pytest.approx(2.0)
    assert found.metadata["repeated_keys"].value == 0


@pytest.mark.parametrize("spoil", [infinite, lambda rows: pa.concat_tables([rows, rows.slice(rows.num_rows - 1)])])
def test_infinite_features_and_repeated_keys_stop_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pa.Table], pa.Table]
) -> None:
    """A model that learned them would be served until somebody looked."""
    world.drop(range(2))
    sound = FeatureStore.examples
    monkeypatch.setattr(FeatureStore, "examples", lambda self, first, stop: spoil(sound(self, first, stop)))
    assert not evaluated(world).passed
