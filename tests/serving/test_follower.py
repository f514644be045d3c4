"""The follower's stories, told with a registry in a folder and a clock in hand: nothing sleeps."""

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.errors import NotReadyError, RegistryDownError
from ml_core.flow.package import GOLDEN, GRAPH, MANIFEST, SIGNATURE
from ml_core.flow.read import ModelAddress, VersionRef
from serving.follower import Follower
from serving.following import NEXT, FollowerSettings, State

PRODUCTION = ModelAddress.parse("models:/f/Production")


class Hand:
    """A monotonic clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def follow(registry: Any, hand: Hand) -> Callable[..., Follower]:
    """Return a maker of followers of the registry in the folder."""

    def make(address: ModelAddress = PRODUCTION, **options: Any) -> Follower:
        options.setdefault("poll_interval_s", 0.2)
        return Follower(address, "folder", settings=FollowerSettings(**options), registry=registry, monotonic=hand)

    return make


def served(follower: Follower) -> int | None:
    return follower.current.version if follower.current else None


def test_nothing_is_served_before_there_is_a_version_and_it_is_no_error(registry: Any, follow: Any) -> None:
    """A sidecar is started before the first training is done."""
    follower = follow()
    follower.step()
    assert served(follower) is None
    assert "nothing there" in follower.last_error
    registry.add(1)
    registry.promote(1)
    follower.step()
    assert served(follower) == 1
    assert follower.last_error is None


def test_it_moves_to_whatever_stands_at_the_address_older_or_newer(registry: Any, follow: Any) -> None:
    """A rollback has to reach the callers as a promotion does."""
    follower = follow()
    for version in (3, 4):
        registry.add(version)
    for version in (3, 4, 3):
        registry.promote(version)
        follower.step()
        assert served(follower) == version
    assert [(swap.before, swap.version) for swap in follower.history] == [(None, 3), (3, 4), (4, 3)]


def test_a_version_is_downloaded_once(registry: Any, follow: Any) -> None:
    """Polling five times a second must cost one small request each."""
    registry.add(1)
    registry.promote(1)
    follower = follow()
    for _ in range(5):
        follower.step()
    assert registry.downloads == [1]


def truncated(file: str) -> Callable[[VersionRef, Path], None]:
    return lambda _, package: (package / file).write_bytes((package / file).read_bytes()[:-3])


def flipped(file: str) -> Callable[[VersionRef, Path], None]:
    def flip(_: VersionRef, package: Path) -> None:
        content = bytearray((package / file).read_bytes())
        content[len(content) // 2] ^= 1
        (package / file).write_bytes(content)

    return flip


def missing(file: str) -> Callable[[VersionRef, Path], None]:
    return lambda _, package: (package / file).unlink()


def extra(_: VersionRef, package: Path) -> None:
    (package / "evil.py").write_text("print('hi')")


def no_space(_: VersionRef, package: Path) -> None:
    raise OSError(28, "No space left on device", str(package))


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (truncated(GRAPH), GRAPH),
        (flipped(GRAPH), GRAPH),
        (missing(GRAPH), GRAPH),
        (truncated(MANIFEST), MANIFEST),
        (missing(MANIFEST), MANIFEST),
        (flipped(SIGNATURE), SIGNATURE),
        (flipped(GOLDEN), GOLDEN),
        (extra, "evil.py"),
        (no_space, "No space left"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_broken_copy_is_quarantined_with_its_reason_and_the_last_good_one_serves(
    registry: Any, follow: Any, hand: Hand, tamper: Any, told: str
) -> None:
    """One bad upload or one full disk must not take the service down, nor stay unnoticed."""
    registry.add(1)
    registry.promote(1)
    follower = follow()
    follower.step()
    registry.add(2)
    registry.promote(2)
    registry.downloading = tamper
    follower.step()
    assert served(follower) == 1
    (entry,) = follower.quarantine
    assert (entry.version, entry.failures) == (2, 1)
    assert told in entry.reason
    assert follower.state is State.IDLE
    # whole again: it is served once its pause is over, and forgotten as a failure
    registry.downloading = lambda *_: None
    follower.step()
    assert served(follower) == 1
    hand.now += 1.1
    follower.step()
    assert served(follower) == 2
    assert follower.quarantine == ()


def test_a_version_that_stays_broken_is_tried_less_and_less_often(registry: Any, follow: Any, hand: Hand) -> None:
    """A broken version must not keep the registry and the processor busy for ever."""
    registry.add(1)
    registry.promote(1)
    registry.downloading = missing(GRAPH)
    follower = follow()
    pauses = []
    for _ in range(12):
        follower.step()
        pauses.append(follower.quarantine[0].retry_at - hand.now)
        hand.now = follower.quarantine[0].retry_at
    assert all(0.5 * 2**n <= pause <= min(2.0**n, 300) for n, pause in enumerate(pauses[:8]))
    assert 150 <= pauses[-1] <= 300
    assert len(registry.downloads) == 12


def test_a_bad_version_is_skipped_when_a_newer_one_is_good(registry: Any, follow: Any) -> None:
    """Waiting for the retry of a version nobody wants any more would delay the fix."""
    for version in (1, 2, 3):
        registry.add(version)
    registry.downloading = lambda ref, package: missing(GRAPH)(ref, package) if ref.version == 2 else None
    follower = follow()
    for version, serves in ((1, 1), (2, 1), (3, 3)):
        registry.promote(version)
        follower.step()
        assert served(follower) == serves
    assert follower.quarantine == ()


def test_a_version_without_a_recorded_digest_is_refused(registry: Any, follow: Any) -> None:
    """Whoever can write files but not the registry must not be able to change what is served."""
    ref = registry.add(1)
    registry.refs[1] = VersionRef(ref.flow, 1, ref.stage, ref.source, {})
    registry.promote(1)
    follower = follow()
    follower.step()
    assert "manifest_sha256" in follower.quarantine[0].reason


def test_a_graph_that_needs_a_missing_operator_is_refused(registry: Any, follow: Any, make_graph: Any) -> None:
    """A trainer that runs ahead of the predictors' onnxruntime must not stop them."""
    import onnx

    registry.add(1)
    registry.promote(1)
    follower = follow()
    follower.step()
    model = onnx.load_model_from_string(make_graph(0.5))
    model.graph.node[0].op_type = "MurmurHash99"
    ref = registry.add(2)
    package = Path(ref.source)
    (package / GRAPH).write_bytes(model.SerializeToString())
    _rewrite_manifest(registry, 2)
    registry.promote(2)
    follower.step()
    assert served(follower) == 1
    assert "MurmurHash99" in follower.quarantine[0].reason


def test_a_graph_over_other_columns_than_its_signature_is_refused(registry: Any, follow: Any, make_graph: Any) -> None:
    """It would be loaded without a word and answer with wrong scores."""
    ref = registry.add(1)
    graph = make_graph(0.5, {"carrier": "string", "origin": "string", "delay": "float", "minute": "float"})
    (Path(ref.source) / GRAPH).write_bytes(graph)
    _rewrite_manifest(registry, 1)
    registry.promote(1)
    follower = follow()
    follower.step()
    assert "signature" in follower.quarantine[0].reason


def test_a_graph_with_other_weights_than_its_golden_rows_is_refused(
    registry: Any, follow: Any, make_graph: Any
) -> None:
    """Digests prove that nothing was altered after publishing, golden rows that the right thing was published."""
    ref = registry.add(1)
    (Path(ref.source) / GRAPH).write_bytes(make_graph(0.9))
    _rewrite_manifest(registry, 1)
    registry.promote(1)
    follower = follow()
    follower.step()
    assert "golden" in follower.quarantine[0].reason


def _rewrite_manifest(registry: Any, version: int) -> None:
    """Make a tampered package whole again, as a faulty publisher would have written it."""
    from ml_core.flow.package import file_digest

    ref = registry.refs[version]
    package = Path(ref.source)
    manifest = json.loads((package / MANIFEST).read_text())
    for name, described in manifest["files"].items():
        described |= {"sha256": file_digest(package / name), "size": (package / name).stat().st_size}
    (package / MANIFEST).write_text(json.dumps(manifest))
    tags = {**ref.tags, "manifest_sha256": file_digest(package / MANIFEST)}
    registry.refs[version] = VersionRef(ref.flow, version, ref.stage, ref.source, tags)


def test_a_version_whose_callers_would_be_refused_waits_until_it_is_accepted(registry: Any, follow: Any) -> None:
    """A new column that no caller sends yet would turn every request into an error at once."""
    registry.add(1)
    registry.add(2, signature={"carrier": "string", "gate": "string"})
    registry.add(3, signature={"carrier": "string"})
    careful, eager = follow(), follow(accept_new_signature=True)
    registry.promote(1)
    careful.step()
    eager.step()
    registry.promote(2)
    careful.step()
    eager.step()
    assert served(careful) == 1
    assert "'gate'" in careful.quarantine[0].reason
    assert served(eager) == 2
    registry.promote(3)  # it needs less, so no caller notices
    careful.step()
    assert served(careful) == 3


def test_a_flow_that_was_deleted_and_made_anew_is_followed(registry: Any, follow: Any) -> None:
    """Its numbers start again, with other models behind them."""
    registry.add(1)
    registry.promote(1)
    follower = follow()
    follower.step()
    first = follower.current
    registry.root = registry.root.with_name("anew")
    registry.add(1, signature={"carrier": "string"})
    follower.step()
    assert follower.current is not first
    assert follower.current.signature == {"carrier": "string"}


def test_a_stage_that_was_emptied_keeps_what_was_served(registry: Any, follow: Any) -> None:
    """Somebody archives the champion by mistake; callers should not pay for it."""
    registry.add(1)
    registry.promote(1)
    follower = follow()
    follower.step()
    registry.promote(None)
    follower.step()
    assert served(follower) == 1
    assert "nothing there" in follower.last_error


def test_a_pinned_version_is_loaded_once_and_not_followed(registry: Any, follow: Any) -> None:
    """A comparison with a frozen version must stay frozen, and ask nobody."""
    registry.add(1)
    follower = follow(ModelAddress.parse("models:/f/1"))
    follower.load_first()
    follower.start()
    follower._thread.join(5)
    assert registry.resolved == 1
    assert follower.alive
    follower.stop()


def test_a_registry_that_is_down_is_asked_less_often_and_quickly_again(registry: Any, follow: Any) -> None:
    """A thousand sidecars must not keep a registry from getting up; nor should they find it late."""
    registry.add(1)
    registry.promote(1)
    follower = follow()
    follower.step()
    registry.down = RegistryDownError("gone")
    pauses = [follower.step() for _ in range(10)]
    assert pauses[0] <= 0.4
    assert 4.0 <= pauses[-1] <= 5.0
    assert (served(follower), follower.registry_answers) == (1, False)
    registry.down = None
    assert follower.step() <= 0.2
    assert follower.registry_answers


def test_a_start_with_the_registry_down_serves_the_last_good_package(
    registry: Any, follow: Any, tmp_path: Path
) -> None:
    """A reboot of the whole rack brings the registry back last."""
    for version in (1, 2):
        registry.add(version)
        registry.promote(version)
        before = follow(cache=tmp_path / "cache")
        before.step()
    registry.down = RegistryDownError("gone")
    after = follow(cache=tmp_path / "cache")
    after.load_first()
    assert served(after) == 2
    assert after.current.from_cache
    assert after.current.described()["trained_through"] == "2013-09-01T00:00:00+00:00"
    registry.down = None
    after.step()
    assert (served(after), after.current.from_cache) == (2, False)
    assert len(list((tmp_path / "cache" / "versions").iterdir())) == 1


def test_the_cache_serves_where_the_registry_answers_one_look_and_is_down_before_the_download(
    registry: Any, follow: Any, tmp_path: Path
) -> None:
    """An answer about the address is no model; a restart in the middle of an outage must not wait for its end."""
    registry.add(1)
    registry.promote(1)
    follow(cache=tmp_path / "cache").step()

    def gone(*_: Any) -> None:
        raise RegistryDownError("artifacts: gone")

    registry.downloading = gone
    after = follow(cache=tmp_path / "cache")
    after.step()
    assert (served(after), after.current.from_cache) == (1, True)
    registry.downloading = lambda *_: None
    after.step()
    assert (served(after), after.current.from_cache) == (1, False)


def test_a_registry_that_said_nothing_is_there_is_believed_when_it_is_down_afterwards(
    registry: Any, follow: Any, tmp_path: Path
) -> None:
    """What it said last stands until it says something else."""
    registry.add(1)
    registry.promote(1)
    follow(cache=tmp_path / "cache").step()
    registry.promote(None)
    follower = follow(cache=tmp_path / "cache")
    follower.step()
    registry.down = RegistryDownError("gone")
    follower.step()
    assert served(follower) is None


@pytest.mark.parametrize("damage", ["flipped", "missing", "extra", "a folder more"])
def test_a_damaged_package_in_the_cache_is_replaced_by_the_good_one(
    registry: Any, follow: Any, tmp_path: Path, damage: str
) -> None:
    """Otherwise the cache fails on the day it is needed, though the good package was there every day before."""
    registry.add(1)
    registry.promote(1)
    follow(cache=tmp_path / "cache").step()
    (kept,) = (tmp_path / "cache" / "versions").iterdir()
    if damage == "a folder more":
        (kept / "more").mkdir()
        (kept / "more" / "evil.py").write_text("print('hi')")
    else:
        {"flipped": flipped(GRAPH), "missing": missing(GRAPH), "extra": extra}[damage](registry.refs[1], kept)
    follow(cache=tmp_path / "cache").step()
    registry.down = RegistryDownError("gone")
    after = follow(cache=tmp_path / "cache")
    after.load_first()
    assert (served(after), after.current.from_cache) == (1, True)


@pytest.mark.parametrize("done", range(5))
def test_a_crash_while_a_cached_package_is_replaced_leaves_one_that_serves(
    registry: Any, follow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """The old package is good nearly always; replacing it must not be what loses it."""
    registry.add(1)
    registry.promote(1)
    follow(cache=tmp_path / "cache").step()
    left, replace = iter(range(done)), Path.replace

    def dying(path: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise OSError(5, "killed here", str(path))
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        follow(cache=tmp_path / "cache").step()
    registry.down = RegistryDownError("gone")
    after = follow(cache=tmp_path / "cache")
    after.load_first()
    assert served(after) == 1


def test_a_broken_version_at_the_start_falls_back_to_the_cache_then_to_the_one_before(
    registry: Any, follow: Any, tmp_path: Path
) -> None:
    """Not ready only if there is nothing good at all."""
    for version in (1, 2):
        registry.add(version)
    registry.promote(1)
    follow(cache=tmp_path / "cache").step()
    registry.promote(2)
    registry.downloading = lambda ref, package: missing(GRAPH)(ref, package) if ref.version == 2 else None
    cached, uncached = follow(cache=tmp_path / "cache"), follow()
    cached.load_first()
    uncached.load_first()
    assert (served(cached), cached.current.from_cache) == (1, True)
    assert (served(uncached), uncached.current.from_cache) == (1, False)
    assert uncached.quarantine[0].version == 2
    registry.previous = None
    with pytest.raises(NotReadyError, match=GRAPH):
        follow().load_first()


def test_a_cache_is_not_served_when_the_registry_says_there_is_nothing(
    registry: Any, follow: Any, tmp_path: Path
) -> None:
    """The registry is the truth: a flow that was emptied must not live on in old folders."""
    registry.add(1)
    registry.promote(1)
    follow(cache=tmp_path / "cache").step()
    registry.promote(None)
    follower = follow(cache=tmp_path / "cache")
    follower.step()
    assert served(follower) is None


@pytest.mark.parametrize("damage", ["package", "last.json", "other origin"])
def test_a_cache_that_cannot_be_trusted_is_not_served(registry: Any, follow: Any, tmp_path: Path, damage: str) -> None:
    """A disk that lost power in the middle of a write must not decide what is served."""
    registry.add(1)
    registry.promote(1)
    follow(cache=tmp_path / "cache").step()
    last = tmp_path / "cache" / "last.json"
    if damage == "package":
        (graph,) = (tmp_path / "cache").rglob(GRAPH)
        graph.write_bytes(graph.read_bytes()[:-1])
    elif damage == "last.json":
        last.write_bytes(last.read_bytes()[:-9])
    else:
        last.write_text(json.dumps(json.loads(last.read_text()) | {"origin": "another registry"}))
    registry.down = RegistryDownError("gone")
    follower = follow(cache=tmp_path / "cache")
    with pytest.raises(NotReadyError, match="gone"):
        follower.load_first()


def test_downloads_leave_nothing_behind_even_those_of_a_killed_process(
    registry: Any, follow: Any, tmp_path: Path
) -> None:
    """A sidecar that reloads every minute for a year must not fill the disk."""
    cache = tmp_path / "cache"
    (cache / "incoming-999999999-x").mkdir(parents=True)
    follower = follow(cache=cache)
    for version in (1, 2, 3):
        registry.add(version)
        registry.promote(version)
        follower.step()
    assert sorted(path.name.split("-")[0] for path in cache.iterdir()) == ["last.json", "versions"]
    assert len(list((cache / "versions").iterdir())) == 1


def test_an_old_model_is_freed_once_no_request_holds_it(registry: Any, follow: Any) -> None:
    """A thousand reloads must not cost the memory of a thousand models."""
    follower = follow()
    registry.add(1)
    registry.promote(1)
    follower.step()
    in_flight = follower.current
    gone = weakref.ref(in_flight)
    registry.add(2)
    registry.promote(2)
    follower.step()
    assert in_flight.score(in_flight.rows.records([{"carrier": "UA", "origin": "E", "delay": 1, "hour": 1}]))[0] < 0.02
    del in_flight
    gc.collect()
    assert gone() is None


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.sampled_from(["good", "bad", "promote older", "registry down", "registry up", "empty", "step", "wait"]),
        max_size=25,
    )
)
def test_whatever_happens_only_proved_models_are_served_and_the_good_one_is_reached(
    tmp_path_factory: pytest.TempPathFactory, new_registry: Any, happenings: list[str]
) -> None:
    """The state machine's promise, over any order of events."""
    registry = new_registry(tmp_path_factory.mktemp("any"))
    hand, bad, last_good = Hand(), set(), None
    registry.downloading = lambda ref, package: missing(GRAPH)(ref, package) if ref.version in bad else None
    follower = Follower(PRODUCTION, "folder", registry=registry, monotonic=hand)
    moved: list[tuple[State, State]] = []
    original = follower._move

    def watched(state: State) -> None:
        moved.append((follower.state, state))
        original(state)

    follower._move = watched  # type: ignore[method-assign]  # to see the moves
    for happening in happenings:
        if happening in {"good", "bad"}:
            version = len(registry.refs) + 1
            registry.add(version, signature={"carrier": "string"})
            bad |= {version} if happening == "bad" else set()
            registry.promote(version)
        elif happening == "promote older" and registry.refs:
            registry.promote(min(registry.refs))
        elif happening.startswith("registry"):
            registry.down = RegistryDownError("gone") if happening.endswith("down") else None
        elif happening == "empty":
            registry.promote(None)
        elif happening == "wait":
            hand.now += 400
        follower.step()
        if served(follower) is not None:
            last_good = served(follower)
        assert served(follower) == last_good
        assert last_good not in bad
    assert all(after in NEXT[before] for before, after in moved)
    registry.down = None
    registry.add(99, signature={"carrier": "string"})
    registry.promote(99)
    follower.step()
    assert served(follower) == 99
    assert follower.quarantine == ()
