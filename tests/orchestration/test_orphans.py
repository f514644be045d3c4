"""Two runs continue one champion at the same time: one of them wins, and the other's version is in nobody's way."""

from ml_core.flow.registry import registry_of
from ml_core.training import train_increment
from tests.orchestration.conftest import World


def test_an_increment_of_a_champion_that_was_replaced_is_refused_and_later_runs_go_on(world: World) -> None:
    """Had it stayed unjudged, every later run of the flow would have stopped at it."""
    world.drop(range(4), absorb=True)
    assert world.run("full_training").success
    world.drop(range(4, 8), absorb=True)
    registry = registry_of(world.project)
    twins = [train_increment(world.flow, world.store, registry, tags={}) for _ in range(2)]
    winner, orphan = (twin.version for twin in twins if twin is not None)
    registry.force_promote("orders", winner, reason="it was judged first")
    assert world.run("full_training").success, "it judges whatever waits, as every run does"
    left = registry.version("orders", orphan)
    assert left.verdict is not None
    assert not left.verdict.accepted
    assert left.stage == "Archived"
    assert f"it continues version 1, but the champion is {winner} by now" in left.verdict.reasons[0]
