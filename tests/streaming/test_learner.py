"""The resident learner: whatever happens to it, its weights are those of one undisturbed pass over the examples."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_core.data import FeatureStore
from ml_core.data.progress import Progress
from ml_core.errors import RegistryDownError, RegistryError, StateError, StreamError
from ml_core.flow.registry import Registry
from ml_core.flow.topic import ModelReader, StreamedModel, take_apart
from ml_core.pipeline import PipelineModel
from ml_core.project import Flow
from ml_core.streaming.breaker import Breaker
from ml_core.streaming.broker import Broker
from ml_core.streaming.checkpoint import Checkpoints, Position, read_checkpoint
from ml_core.streaming.cli import _once_possible, run_learn
from ml_core.streaming.feed import Feed
from ml_core.streaming.learner import Learner
from ml_core.streaming.publisher import model_topic
from ml_core.streaming.state import LearnerState
from ml_core.training import judge_and_promote, train_full, train_increment
from ml_core.training.evaluation import SLICE_FILE, ScoredSlice
from tests.data.conftest import arrived, at, ordered
from tests.registries import empty_registry
from tests.streaming.processes import ProjectOnDisk
from tests.streaming.reading import everything


def live(store: FeatureStore, first: int, stop: int) -> None:
    """Let orders come, each with its label half an hour later, and absorb them."""
    days = [number * 7 % 11 for number in range(first, stop)]
    through = at(stop + 30)
    names = [(f"o{number:06d}", "abc"[number % 3]) for number in range(first, stop)]
    asked = range(first, stop)
    facts = zip(names, asked, days, strict=True)
    store.log.append("ordered", ordered(*((*name, n, n - 1) for name, n, _ in facts)), through=through)
    facts = zip(names, asked, days, strict=True)
    store.log.append("arrived", arrived(*((*name, day, n + 30) for name, n, day in facts)), through=through)
    store.absorb()


def undisturbed(flow: Flow, store: FeatureStore, first: int, stop: int) -> str:
    """Return the digest of a model that learned the examples [first, stop) in one pass."""
    model = PipelineModel.build(flow.pipeline, store.schema())
    table = store.examples(first, stop)
    model.learn(table, table.column("label").to_numpy())
    return model.state_digest()


def drained(learner: Learner) -> Learner:
    """Step until every example of the store is learned."""
    while learner.step() or learner.waiting:
        pass
    return learner


def streamed(broker: Broker, flow: Flow) -> tuple[ModelReader, StreamedModel]:
    """Return the model that a follower has after reading the whole model topic."""
    reader = ModelReader()
    for record in everything(broker, model_topic(flow.name)):
        reader.read(record.value, dict(record.headers))
    assert reader.current is not None
    return reader, reader.current


@pytest.fixture
def registry(flow: Flow, store: FeatureStore, tmp_path: Path) -> Registry:
    """Return a registry whose head of the flow has learned its first 300 examples."""
    live(store, 0, 300)
    home = tmp_path / "home" / "mlflow"
    registry = Registry(empty_registry(home / "mlflow.db"), artifacts=(home / "artifacts").as_uri())
    assert judge_and_promote(flow, registry, train_full(flow, store, registry)).accepted
    return registry


@pytest.fixture
def feed(flow: Flow, store: FeatureStore, broker: Broker, registry: Registry) -> Iterator[Feed]:
    """Return what emits the flow's examples, after those of the head."""
    del registry
    feed = Feed(flow, store, broker)
    yield feed
    feed.close()


@pytest.fixture
def learning(flow: Flow, store: FeatureStore, broker: Broker, registry: Registry) -> Iterator[Callable[..., Learner]]:
    """Return a maker of learners, closed at the end."""
    made: list[Learner] = []

    def make(**settings: Any) -> Learner:
        learn = flow.stream.learn.model_copy(update=settings)
        changed = flow.model_copy(update={"stream": flow.stream.model_copy(update={"learn": learn})})
        made.append(Learner(changed, store, registry, broker))
        return made[-1]

    yield make
    for learner in made:
        learner.close()


def test_it_learns_from_the_topic_what_training_learns_from_the_store(
    flow: Flow, store: FeatureStore, feed: Feed, learning: Callable[..., Learner]
) -> None:
    for stop in (400, 1_500, 4_000):
        live(store, store.progress().next_example, stop)
        feed.step()
    learner = drained(learning())
    assert learner.position.watermark == store.progress().next_example > 3_900
    assert learner.learned == learner.position.watermark - learner.position.started
    assert learner.model.state_digest() == undisturbed(flow, store, 0, learner.position.watermark)
    assert learner._examples.from_store == 0, "the topic had them all"


def test_what_the_topic_lacks_comes_from_the_store(
    flow: Flow, store: FeatureStore, broker: Broker, registry: Registry, learning: Callable[..., Learner]
) -> None:
    """A topic begins after the head, repeats itself, and forgets."""
    live(store, 300, 500)
    late = Feed(flow, store, broker)
    live(store, 500, 700)
    late.step()
    (store.directory / "emitted.json").unlink()
    late.close()
    live(store, 700, 800)
    learner = drained(learning())
    assert learner._examples.from_store > 0
    assert learner.position.watermark == store.progress().next_example
    assert learner.model.state_digest() == undisturbed(flow, store, 0, learner.position.watermark)
    assert registry.head(flow.name) is not None


def test_a_follower_of_the_model_topic_has_the_learners_very_weights(
    flow: Flow, store: FeatureStore, feed: Feed, broker: Broker, learning: Callable[..., Learner]
) -> None:
    live(store, 300, 2_400)
    feed.step()
    learner = drained(learning(publish_rows=300))
    learner.publish()
    reader, model = streamed(broker, flow)
    skeleton, parameters = take_apart(learner.model.to_onnx())
    assert (reader.problem, model.skeleton, set(model.parameters)) == (None, skeleton, set(parameters))
    assert all(model.parameters[name].tobytes() == array.tobytes() for name, array in parameters.items())
    assert model.described["watermark"] == learner.position.watermark
    assert model.sequence >= 3, "one whole, and what changed since"
    sequence = model.sequence
    learner.close()
    again = learning()
    again.publish()
    assert streamed(broker, flow)[1].sequence == sequence + 1


def test_a_checkpoint_is_where_the_next_process_goes_on(
    flow: Flow, store: FeatureStore, feed: Feed, learning: Callable[..., Learner]
) -> None:
    live(store, 300, 900)
    feed.step()
    first = drained(learning())
    watermark, digest = first.position.watermark, first.model.state_digest()
    first.close()
    second = learning()
    assert (second.position.watermark, second.model.state_digest()) == (watermark, digest)
    second.close()
    (checkpoint,) = (store.directory / "learner").glob("0*-*")
    (checkpoint / "state" / "state.npz").write_bytes(b"damaged")
    third = learning()
    assert third.position.watermark == third.position.started, "a damaged one is passed over"
    assert drained(third).model.state_digest() == digest == undisturbed(flow, store, 0, watermark)


def test_a_checkpoint_is_what_it_says_whatever_lies_at_its_place(
    flow: Flow, store: FeatureStore, registry: Registry, tmp_path: Path
) -> None:
    """Registries number their versions alike, and a folder may be damaged; a version of either would be another's."""
    head = registry.head(flow.name)
    assert head is not None
    first, second = (PipelineModel.build(flow.pipeline, store.schema()) for _ in range(2))
    rows = store.examples(0, 100)
    second.learn(rows, rows.column("label").to_numpy())
    nothing = ScoredSlice(head.watermark, np.empty(0), np.empty(0), np.empty(0))
    ours, theirs = Position.at(head), replace(Position.at(head), manifest_sha256="0" * 64)
    Checkpoints(tmp_path / "kept").write(theirs, first, nothing)
    kept = Checkpoints(tmp_path / "kept")
    folder = kept.write(ours, second, nothing)
    position, model, _ = read_checkpoint(folder, flow.pipeline)
    assert (position, model.state_digest()) == (ours, second.state_digest())
    (folder / SLICE_FILE).write_bytes(b"")
    later = Checkpoints(tmp_path / "kept")
    assert later.newest(head, flow.pipeline) is None, "an empty file is a damaged one, and theirs is not ours"
    assert later.write(ours, second, nothing) == folder
    found = later.newest(head, flow.pipeline)
    assert found is not None
    assert found[1].state_digest() == second.state_digest()
    assert not list(folder.parent.glob("*.part"))


def test_a_checkpoint_that_is_being_registered_is_not_written_over(
    flow: Flow, store: FeatureStore, registry: Registry, tmp_path: Path
) -> None:
    """The thread that registers reads it file by file."""
    head = registry.head(flow.name)
    assert head is not None
    model = PipelineModel.build(flow.pipeline, store.schema())
    nothing = ScoredSlice(head.watermark, np.empty(0), np.empty(0), np.empty(0))
    kept = Checkpoints(tmp_path / "kept")
    folder = kept.write(Position.at(head), model, nothing)
    made = folder.stat().st_ino
    assert kept.write(Position.at(head), model, nothing) == folder
    assert folder.stat().st_ino == made


def test_an_accepted_version_is_a_child_of_the_head_and_learning_goes_on(
    flow: Flow, store: FeatureStore, feed: Feed, registry: Registry, learning: Callable[..., Learner]
) -> None:
    live(store, 300, 900)
    feed.step()
    learner = drained(learning())
    learner.register()
    live(store, 900, 1_000)
    feed.step()
    learner.settle()
    head = registry.head(flow.name)
    assert head is not None
    assert (head.kind, head.parent, head.version, head.trained_through) == ("stream", 1, 2, at(899 + 30))
    assert learner.position.continues(head)
    drained(learner)
    assert learner.position.watermark > head.watermark
    assert learner.model.state_digest() == undisturbed(flow, store, 0, learner.position.watermark)
    learner.register()
    learner.settle()
    second = registry.head(flow.name)
    assert second is not None
    assert second.parent == head.version


def test_a_refused_version_takes_nothing_back(
    flow: Flow, store: FeatureStore, feed: Feed, registry: Registry, learning: Callable[..., Learner]
) -> None:
    """What it learned is what the next child of the head learns anyway."""
    live(store, 300, 320)
    feed.step()
    learner = drained(learning())
    learner.register()
    learner.settle()
    head = registry.head(flow.name)
    assert head is not None
    assert head.version == 1, "too few rows to judge on"
    live(store, 320, 900)
    feed.step()
    drained(learner).register()
    learner.settle()
    head = registry.head(flow.name)
    assert head is not None
    assert (head.version, head.parent) == (3, 1)
    assert learner.model.state_digest() == undisturbed(flow, store, 0, head.watermark)


def test_a_head_that_others_made_is_continued_without_a_gap(  # noqa: PLR0917 - fixtures
    flow: Flow,
    store: FeatureStore,
    feed: Feed,
    broker: Broker,
    registry: Registry,
    learning: Callable[..., Learner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live(store, 300, 600)
    feed.step()
    learner = drained(learning())
    other = train_increment(flow, store, registry)
    assert other is not None
    assert judge_and_promote(flow, registry, other).accepted
    live(store, 600, 900)
    feed.step()
    drained(learner)
    monkeypatch.setattr("ml_core.streaming.learner._LOOK_S", 0.0)
    while learner.position.base != other.version:
        learner.step()
    drained(learner)
    assert learner.position.watermark == store.progress().next_example
    assert learner.model.state_digest() == undisturbed(flow, store, 0, learner.position.watermark)
    assert streamed(broker, flow)[1].described["parent"] == other.version


def test_a_head_that_cannot_be_continued_changes_nothing(
    flow: Flow, store: FeatureStore, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint written at the end would call the evidence of the old lineage that of the new."""
    old = registry.head(flow.name)
    assert old is not None
    state = LearnerState(flow, store, registry, Checkpoints(tmp_path / "learner"))
    state.begin(old)
    before = (state.position, state.model.state_digest(), state.described())
    live(store, 300, 600)
    new = train_increment(flow, store, registry)
    assert new is not None
    with monkeypatch.context() as patched:
        patched.setattr(store, "progress", lambda: Progress(next_example=300))
        with pytest.raises(StreamError, match="the store holds 300"):
            state.begin(new)
    assert (state.position, state.model.state_digest(), state.described()) == before
    state.begin(new)
    assert state.position.base == new.version


def test_one_process_learns_a_flow_and_one_without_a_head_says_so(  # noqa: PLR0917 - fixtures
    flow: Flow,
    store: FeatureStore,
    broker: Broker,
    registry: Registry,
    learning: Callable[..., Learner],
    tmp_path: Path,
) -> None:
    learning()
    with pytest.raises(StreamError, match="another process learns this flow"):
        Learner(flow, store, registry, broker)
    elsewhere = FeatureStore(flow, root=tmp_path, home=tmp_path / "elsewhere")
    with pytest.raises(RegistryError, match="full training"):
        Learner(flow, elsewhere, Registry(empty_registry(tmp_path / "empty.db")), broker)


def test_the_breaker_opens_at_a_flood_of_wrong_labels_and_closes_after_it() -> None:
    """Wrong labels for a while must not become the measure of themselves."""
    draw = np.random.default_rng(0)
    breaker = Breaker("binary", rows=100, ratio=2.0)
    scores = np.where(draw.random(1_000) < 0.5, 0.9, 0.1)
    labels = (draw.random(1_000) < scores).astype(np.float64)
    breaker.watch(labels, scores)
    assert breaker.reason is None
    for start in range(0, 1_000, 30):
        breaker.watch(1 - labels[start : start + 30], scores[start : start + 30])
    assert breaker.reason is not None
    assert "2 times the usual" in breaker.reason
    breaker.watch(labels[:200], scores[:200])
    assert (breaker.reason, breaker.trips) == (None, 1)


def test_an_open_breaker_holds_publications_back(
    flow: Flow, store: FeatureStore, feed: Feed, broker: Broker, learning: Callable[..., Learner]
) -> None:
    live(store, 300, 900)
    feed.step()
    learner = drained(learning())
    learner.publish()
    sequence = streamed(broker, flow)[1].sequence
    learner.breaker.reason = "a test said so"
    learner.publish()
    learner.register()
    learner.settle()
    assert streamed(broker, flow)[1].sequence == sequence
    assert learner.position.base == 1
    assert "a test said so" in (store.directory / "learner" / "status.json").read_text()


def test_what_the_breaker_holds_back_from_the_registry_is_told(
    store: FeatureStore, feed: Feed, learning: Callable[..., Learner], caplog: pytest.LogCaptureFixture
) -> None:
    """A command that ends without a version must not look as if it had made one."""
    live(store, 300, 900)
    feed.step()
    learner = drained(learning())
    learner.breaker.reason = "a test said so"
    run_learn(learner, until_idle=True, stop=threading.Event())
    told = (
        f"from 300 up to {learner.position.watermark} are not registered: the circuit breaker is open: a test said so"
    )
    assert told in caplog.text


def test_the_last_things_learned_are_registered_after_a_registration_that_goes_on(  # noqa: PLR0917 - fixtures
    flow: Flow,
    store: FeatureStore,
    feed: Feed,
    registry: Registry,
    learning: Callable[..., Learner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever ends with `--until-idle` takes the head for all there was to learn."""
    live(store, 300, 900)
    feed.step()
    learner = drained(learning())
    waited_for, registrar = threading.Event(), learner._registrar
    slowly, wait = registrar._register, registrar.wait

    def register(folder: Path) -> Any:
        assert waited_for.wait(60)
        return slowly(folder)

    def settled() -> None:
        waited_for.set()
        wait()

    monkeypatch.setattr(registrar, "_register", register)
    monkeypatch.setattr(registrar, "wait", settled)
    learner.register()
    live(store, 900, 1_200)
    feed.step()
    run_learn(learner, until_idle=True, stop=threading.Event())
    head = registry.head(flow.name)
    assert head is not None
    assert (head.version, head.watermark) == (3, learner.position.watermark)
    assert head.watermark == store.progress().next_example


def test_the_last_things_learned_are_registered_on_a_head_that_moved_meanwhile(  # noqa: PLR0917 - fixtures
    flow: Flow,
    store: FeatureStore,
    feed: Feed,
    registry: Registry,
    learning: Callable[..., Learner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that was killed while it promoted leaves a promotion to whoever promotes next, to be completed first."""
    live(store, 300, 900)
    feed.step()
    other = train_increment(flow, store, registry)
    assert other is not None
    live(store, 900, 1_200)
    feed.step()
    learner, promote = drained(learning()), registry.promote

    def after_another(name: str, version: int, **wanted: Any) -> Any:
        monkeypatch.setattr(registry, "promote", promote)
        assert judge_and_promote(flow, registry, other).accepted
        return promote(name, version, **wanted)

    monkeypatch.setattr(registry, "promote", after_another)
    run_learn(learner, until_idle=True, stop=threading.Event())
    head = registry.head(flow.name)
    assert head is not None
    assert (head.kind, head.parent, head.watermark) == ("stream", other.version, store.progress().next_example)
    assert learner.model.state_digest() == undisturbed(flow, store, 0, head.watermark)


def test_what_could_not_be_registered_at_the_end_is_an_error(
    store: FeatureStore,
    feed: Feed,
    registry: Registry,
    learning: Callable[..., Learner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the head is what it was, and trying again would come to the same."""
    live(store, 300, 900)
    feed.step()
    learner = drained(learning())

    def down(*_: Any, **__: Any) -> Any:
        raise RegistryDownError("a test said so")

    monkeypatch.setattr(registry, "promote", down)
    with pytest.raises(RegistryDownError, match="a test said so"):
        run_learn(learner, until_idle=True, stop=threading.Event())


def test_features_edited_meanwhile_end_it_before_it_learns_one_of_them(  # noqa: PLR0917 - fixtures
    flow: Flow,
    store: FeatureStore,
    feed: Feed,
    registry: Registry,
    learning: Callable[..., Learner],
    tmp_path: Path,
) -> None:
    """Weights of two definitions would go out as a version of the newer one."""
    live(store, 300, 900)
    feed.step()
    learner = drained(learning())
    before = (learner.position, learner.model.state_digest())
    edited = (tmp_path / "features.sql").read_text().replace("interval 1 day", "interval 2 hour")
    (tmp_path / "features.sql").write_text(edited)
    live(store, 900, 1_200)
    feed.step()
    with pytest.raises(StateError, match=r"version 1 was trained on features .* run the full training"):
        drained(learner)
    assert (learner.position, learner.model.state_digest()) == before
    head = registry.head(flow.name)
    assert head is not None
    with pytest.raises(StateError, match="run the full training"):
        LearnerState(flow, store, registry, Checkpoints(tmp_path / "learner")).begin(head)


@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_learner_killed_at_any_moment_ends_with_the_weights_of_an_undisturbed_run(  # noqa: PLR0917 - fixtures
    broker: Broker, flow: Flow, store: FeatureStore, feed: Feed, registry: Registry, tmp_path: Path, kills: int
) -> None:
    """Promise 3, whatever was being learned, kept, published, registered or promoted."""
    project = ProjectOnDisk.write(tmp_path, flow, broker)
    status = store.directory / "learner" / "status.json"
    rows = 200 * kills
    for rounds in range(kills):
        live(store, 300 + rounds * rows // kills, 300 + (rounds + 1) * rows // kills)
        feed.step()
        status.unlink(missing_ok=True)
        command = ("learn", flow.name, "--until-idle")
        project.kill_at_random(command, times=1, seed=rounds, begun=status.exists, longest_s=1.5)
    project.run("learn", flow.name, "--until-idle")
    head = registry.head(flow.name)
    assert head is not None
    assert (head.kind, head.watermark) == ("stream", store.progress().next_example)
    package = registry.download(head, tmp_path / "last")
    digest = PipelineModel.load(package / "state", flow.pipeline).state_digest()
    assert digest == undisturbed(flow, store, 0, head.watermark)
    assert streamed(broker, flow)[1].described["watermark"] == head.watermark


def test_a_resident_learner_waits_for_what_it_needs(
    flow: Flow, store: FeatureStore, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A platform starts before anything is trained; its learner must not be started again and again until then."""
    monkeypatch.setattr("ml_core.streaming.cli._FIRST_PAUSE_S", 0.0)
    registry = Registry(empty_registry(tmp_path / "empty.db"))
    live(store, 0, 400)
    trials = iter([None, None, lambda: judge_and_promote(flow, registry, train_full(flow, store, registry))])

    def begin() -> Learner:
        if happens := next(trials):
            happens()
        return Learner(flow, store, registry, broker)  # the same place each time: nothing may be left held

    learner = _once_possible(begin, threading.Event())
    assert learner is not None
    assert learner.position.base == 1
    learner.close()
    stopped = threading.Event()
    stopped.set()
    assert _once_possible(begin, stopped) is None


def test_a_mistake_is_not_waited_for(flow: Flow) -> None:
    def begin() -> Learner:
        raise StreamError(f"{flow.name}: another process learns this flow")

    with pytest.raises(StreamError, match="another process"):
        _once_possible(begin, threading.Event())
