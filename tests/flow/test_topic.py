"""The codec of the model topic: what a reader returns is what the writer was given."""

import hashlib
import json
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.flow.topic import Chunk, ModelReader, ModelWriter, StreamedModel, put_together, take_apart
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings

SETTINGS = PipelineSettings(
    stages=(
        {"stage": "hash", "columns": ["shop"], "bits": 12},
        {"stage": "onehot", "columns": ["kind"], "cap": 16},
        {"stage": "standardise", "columns": ["days"]},
    ),
    estimator={"name": "FTRLClassifier", "l1": 0.0},
)
SCHEMA = {"shop": "string", "kind": "string", "days": "float"}


def rows(seed: int, n: int = 40, kinds: int = 3) -> tuple[pa.Table, np.ndarray[Any, Any]]:
    """Return random rows and labels."""
    draw = np.random.default_rng(seed)
    table = pa.table(
        {
            "shop": pa.array([f"s{number}" for number in draw.integers(0, 500, n)]),
            "kind": pa.array([f"k{number}" for number in draw.integers(0, kinds, n)]),
            "days": pa.array(draw.normal(size=n).astype(np.float32)),
        }
    )
    return table, draw.integers(0, 2, n).astype(np.float64)


def published(count: int, *, snapshot_every: int = 4, kinds: int = 3) -> list[tuple[bytes, list[Chunk]]]:
    """Return graphs of a model that learns, each with the chunks of its publication."""
    model, writer = PipelineModel.build(SETTINGS, SCHEMA), ModelWriter(snapshot_every)
    found = []
    for number in range(count):
        model.learn(*rows(number, kinds=kinds))
        graph = model.to_onnx()
        scores = model.predict(rows(99)[0]).tolist()
        found.append((graph, writer.write(graph, described={"watermark": number}, golden_scores=scores)))
    return found


PUBLISHED = published(9)


def fed(reader: ModelReader, chunks: list[Chunk]) -> StreamedModel | None:
    """Feed chunks to a reader; return the last model that came out."""
    last = None
    for chunk in chunks:
        last = reader.read(chunk.value, dict(chunk.headers)) or last
    return last


def same(model: StreamedModel | None, graph: bytes) -> bool:
    """Say whether a streamed model is a graph, bit for bit."""
    skeleton, parameters = take_apart(graph)
    return (
        model is not None
        and model.skeleton == skeleton
        and model.parameters.keys() == parameters.keys()
        and all(model.parameters[name].tobytes() == array.tobytes() for name, array in parameters.items())
    )


def test_every_publication_reads_back_bit_for_bit() -> None:
    """The streamed model is the learner's, not one like it."""
    reader = ModelReader()
    for number, (graph, chunks) in enumerate(PUBLISHED):
        model = fed(reader, chunks)
        assert same(model, graph)
        assert model is not None
        assert model.described == {"watermark": number}
    assert reader.problem is None


def test_a_delta_is_small_and_a_snapshot_comes_when_it_is_due() -> None:
    """Sending the whole model each second is what deltas are there to avoid."""
    kinds = [chunks[0].key.split(b"/")[0] for _, chunks in PUBLISHED]
    assert kinds[0] == b"snapshot"
    assert kinds.count(b"snapshot") == len([graph for graph, _ in PUBLISHED][::4])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_reader_recovers_from_whatever_is_lost_repeated_or_altered(data: st.DataObject) -> None:
    """A follower that joins late, misses a delta or sees a corrupted one ends with identical weights."""
    chunks = [chunk for _, publication in PUBLISHED for chunk in publication]
    damaged: list[Chunk] = []
    start = data.draw(st.integers(0, len(chunks) - 1), label="joins at")
    for chunk in chunks[start:]:
        fate = data.draw(st.sampled_from(["whole", "whole", "whole", "lost", "twice", "altered", "mislabelled"]))
        if fate == "altered":
            place = data.draw(st.integers(0, len(chunk.value) - 1))
            value = bytearray(chunk.value)
            value[place] ^= 1 << data.draw(st.integers(0, 7))
            chunk = Chunk(chunk.key, bytes(value), chunk.headers)  # noqa: PLW2901 - its fate
        if fate == "mislabelled":
            chunk = Chunk(chunk.key, chunk.value, chunk.headers[1:])  # noqa: PLW2901 - its fate
        damaged += [chunk] * {"lost": 0, "twice": 2}.get(fate, 1)
    reader = ModelReader()
    graphs = dict(enumerate((graph for graph, _ in PUBLISHED), start=1))
    for chunk in damaged:
        model = reader.read(chunk.value, dict(chunk.headers))
        assert model is None or same(model, graphs[model.sequence])
    last_snapshot = max(number for number, (_, chunks) in enumerate(PUBLISHED) if chunks[0].key.startswith(b"snapshot"))
    model = fed(reader, [chunk for _, publication in PUBLISHED[last_snapshot:] for chunk in publication])
    assert same(model, PUBLISHED[-1][0])
    assert reader.problem is None


def told_otherwise(chunk: Chunk, **changed: Any) -> Chunk:
    """Return the one chunk of a publication with another header, and digests that fit."""
    plain = pa.decompress(chunk.value[8:], int.from_bytes(chunk.value[:8], "big"), "zstd", asbytes=True)
    end = 4 + int.from_bytes(plain[:4], "big")
    header = json.loads(plain[4:end]) | changed
    blocks = plain[end : end + sum(header["blocks"])]
    header["digest"] = hashlib.sha256(str(header["continues"] or "").encode() + blocks).hexdigest()
    text = json.dumps(header).encode()
    plain = len(text).to_bytes(4, "big") + text + blocks
    value = len(plain).to_bytes(8, "big") + pa.compress(plain, "zstd", asbytes=True)
    headers = {**dict(chunk.headers), "sha256": hashlib.sha256(value).hexdigest().encode()}
    return Chunk(chunk.key, value, tuple(headers.items()))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"blocks": []}, "not enough values"),
        ({"parameters": []}, "more blocks than its header"),
        ({"continues": 5}, "continues one that was not read"),
        ({"format": "2"}, "expected format 2, found 2"),
        ({"sequence": 7}, "expected publication 1, found 7"),
    ],
)
def test_a_header_that_does_not_fit_its_blocks_is_refused(changed: dict[str, Any], reason: str | None) -> None:
    """Whoever may write to the topic can make digests fit; what was served goes on, and the next snapshot is taken."""
    reader = ModelReader()
    model = fed(reader, [told_otherwise(PUBLISHED[0][1][0], **changed)])
    if reason is None:
        assert same(model, PUBLISHED[0][0])
        return
    assert model is None
    assert reason in (reader.problem or "")
    assert same(fed(reader, PUBLISHED[4][1]), PUBLISHED[4][0])


def test_large_publications_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker refuses records beyond its limit."""
    monkeypatch.setattr("ml_core.flow.topic.chunks.CHUNK_BYTES", 500)
    cut = published(5)
    assert len(cut[0][1]) > 3
    assert all(len(chunk.value) <= 500 for _, chunks in cut for chunk in chunks)
    reader = ModelReader()
    assert all(same(fed(reader, chunks), graph) for graph, chunks in cut)


def test_a_compacted_topic_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction keeps the newest record of each key, in the order of the topic."""
    monkeypatch.setattr("ml_core.flow.topic.chunks.CHUNK_BYTES", 700)
    cut = published(11)
    chunks = [chunk for _, publication in cut for chunk in publication]
    newest = {chunk.key: place for place, chunk in enumerate(chunks)}
    kept = [chunk for place, chunk in enumerate(chunks) if newest[chunk.key] == place]
    assert len(kept) < len(chunks)
    assert same(fed(ModelReader(), kept), cut[-1][0])


def test_a_topic_compacted_while_a_snapshot_was_written_still_holds_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A follower that starts at that moment has something to serve."""
    monkeypatch.setattr("ml_core.flow.topic.chunks.CHUNK_BYTES", 700)
    cut = published(9)
    assert cut[8][1][0].key.startswith(b"snapshot")
    assert len(cut[8][1]) > 1
    chunks = [chunk for _, publication in cut for chunk in publication][:-1]
    newest = {chunk.key: place for place, chunk in enumerate(chunks)}
    kept = [chunk for place, chunk in enumerate(chunks) if newest[chunk.key] == place]
    assert same(fed(ModelReader(), kept), cut[7][0])


def test_a_model_that_grew_is_sent_whole() -> None:
    """A vocabulary is part of the graph, not a number in it."""
    model, writer = PipelineModel.build(SETTINGS, SCHEMA), ModelWriter(100)
    reader = ModelReader()
    for number in range(4):
        model.learn(*rows(number, kinds=3 + number))
        graph = model.to_onnx()
        assert same(fed(reader, writer.write(graph, described={}, golden_scores=[])), graph)


def test_the_parts_of_a_graph_put_together_score_alike() -> None:
    """What is served is made of the parts."""
    graph = PUBLISHED[-1][0]
    table, _ = rows(5)
    feed = {
        name: table.column(name).to_numpy().astype(object if kind == "string" else np.float32)
        for name, kind in SCHEMA.items()
    }
    expected = onnxruntime.InferenceSession(graph).run(None, feed)[0]
    skeleton, parameters = take_apart(graph)
    bound = onnxruntime.InferenceSession(skeleton).run(None, feed | parameters)[0]
    whole = onnxruntime.InferenceSession(put_together(skeleton, parameters)).run(None, feed)[0]
    assert bound.tobytes() == expected.tobytes() == whole.tobytes()


def test_a_writer_that_starts_again_begins_with_a_snapshot_its_readers_take() -> None:
    """The learner was killed; its followers go on."""
    reader = ModelReader()
    fed(reader, [chunk for _, chunks in PUBLISHED[:3] for chunk in chunks])
    writer = ModelWriter(4, sequence=3, generation=1)
    graph = PUBLISHED[5][0]
    chunks = writer.write(graph, described={}, golden_scores=[])
    assert chunks[0].key == b"snapshot/0/0"
    assert same(fed(reader, chunks), graph)
