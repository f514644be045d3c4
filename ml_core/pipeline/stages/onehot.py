"""Growing one-hot: a vocabulary that only ever appends, so that old weights keep their place.

A value is admitted after `min_count` learned rows have shown it, and from the next row on it has a slot of its own.
Until then, and for ever once `cap` values are admitted, it stands at the column's unknown slot, which therefore learns
what a value never seen before is worth. Nothing here is random and nothing is forgotten: the vocabulary is a function
of the rows learned, in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ml_core.learners.compiled import kernel
from ml_core.pipeline.columns import Columns, Text
from ml_core.pipeline.graph import GraphWriter, Part, Picked
from ml_core.pipeline.stages.base import Moves, Stage, State
from ml_core.pipeline.stages.vocabularies import joined, slots_moved

_MAX_CAP = 1 << 22


@kernel
def _admit(codes, place, count, room, waiting_room, min_count, admitting, out):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Fill `out` with slots, admit values as rows come, and return how many rows were turned away for lack of room.

    For each distinct value `place` is its slot or 0, and `count` how often it was seen while waiting, or 0. `room` is
    [admitted, most]; `waiting_room` is [waiting, most]. Only the first `admitting` rows admit a value.
    """
    turned_away = 0
    for row in range(codes.size):
        code = codes[row]
        out[row] = place[code]
        if row >= admitting or place[code] > 0:
            continue
        if room[0] >= room[1] or (count[code] == 0 and min_count > 1 and waiting_room[0] >= waiting_room[1]):
            turned_away += 1
            continue
        if count[code] == 0:
            waiting_room[0] += 1
        count[code] += 1
        if count[code] >= min_count:
            room[0] += 1
            waiting_room[0] -= 1
            place[code] = room[0]
            count[code] = 0
    return turned_away


@dataclass
class OneHot(Stage):
    """Each string column becomes one entry at the slot of its value, or at the column's unknown slot.

    Parameters
    ----------
    columns : tuple of str
    min_count : int
        How many learned rows must show a value before it is admitted.
    cap : int
        The most values admitted per column; as many more may wait for admission.
    policy : {"growing", "frozen"}
    rows : int
        Under ``frozen``, how many of the first rows may admit a value.

    Attributes
    ----------
    turned_away : ndarray of int64, shape (n_columns,)
        Learned rows whose value found the column at its cap.
    """

    kind: ClassVar[str] = "onehot"
    takes: ClassVar[str] = "string"
    policies: ClassVar[tuple[str, ...]] = ("growing", "frozen")
    columns: tuple[str, ...]
    min_count: int = 1
    cap: int = 1 << 16
    policy: str = "growing"
    rows: int = 10_000
    seen: int = field(init=False, default=0)
    turned_away: NDArray[np.int64] = field(init=False)
    vocabularies: list[dict[str, int]] = field(init=False)
    waiting: list[dict[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.turned_away = np.zeros(len(self.columns), np.int64)
        self.vocabularies = [{} for _ in self.columns]
        self.waiting = [{} for _ in self.columns]

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def light(self) -> bool:
        return False

    @property
    def n_slots(self) -> int:
        return len(self.columns) * (self.cap + 1)

    @property
    def n_entries(self) -> int:
        return len(self.columns)

    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        learned = len(values) if learn else 0
        admitting = learned if self.policy == "growing" else min(learned, max(self.rows - self.seen, 0))
        for position, name in enumerate(self.columns):
            out = slots[:, position]
            self._transform(columns[name], position, out, admitting)
            out += position * (self.cap + 1)
        self.seen += learned

    def _transform(self, text: Text, position: int, out: NDArray[np.int32], admitting: int) -> None:
        vocabulary, waiting, words = self.vocabularies[position], self.waiting[position], text.distinct
        place = np.array([vocabulary.get(word, 0) for word in words], np.int64)
        count = np.array([waiting.get(word, 0) for word in words], np.int64)
        known, counted = place.copy(), count.copy()
        room = np.array([len(vocabulary), self.cap], np.int64)
        waiting_room = np.array([len(waiting), self.cap], np.int64)
        away = _admit(text.codes, place, count, room, waiting_room, self.min_count, admitting, out)
        if not admitting:
            return
        self.turned_away[position] += away
        admitted = np.flatnonzero(place != known)
        for code in admitted[np.argsort(place[admitted])]:
            vocabulary[words[code]] = int(place[code])
        for code in np.flatnonzero(count != counted):
            if count[code]:
                waiting[words[code]] = int(count[code])
            else:
                del waiting[words[code]]

    def write(self, graph: GraphWriter) -> list[Part]:
        places = [
            graph.positions(name, vocabulary) for name, vocabulary in zip(self.columns, self.vocabularies, strict=True)
        ]
        joined = graph.add("Concat", *places, axis=0) if len(places) > 1 else places[0]
        bases = np.arange(len(self.columns), dtype=np.int64)[:, None] * (self.cap + 1)
        return [Picked(graph.add("Add", joined, graph.constant(bases)))]

    @property
    def obstacle(self) -> str | None:
        return None

    @property
    def settled_after(self) -> int:
        return self.rows if self.policy == "frozen" else 0

    def merge(self, shards: Sequence[Self]) -> list[Moves]:
        """Join the vocabularies in the order of the shards; see `ml_core.pipeline.stages.vocabularies`.

        `turned_away` adds up what each shard found by itself, which is not what one pass would have counted.
        """
        moves: list[list[Moves]] = [[] for _ in shards]
        for position in range(len(self.columns)):
            vocabulary, waiting = joined(
                self.vocabularies[position],
                self.waiting[position],
                [(shard.vocabularies[position], shard.waiting[position]) for shard in shards],
                min_count=self.min_count,
                cap=self.cap,
            )
            for shard, moved in zip(shards, moves, strict=True):
                moved.append(
                    slots_moved(shard.vocabularies[position], vocabulary, first_slot=position * (self.cap + 1))
                )
            self.vocabularies[position], self.waiting[position] = vocabulary, waiting
        self.turned_away = self.turned_away + sum(shard.turned_away - self.turned_away for shard in shards)
        self.seen += sum(shard.seen - self.seen for shard in shards)
        return [(np.concatenate([old for old, _ in each]), np.concatenate([new for _, new in each])) for each in moves]

    def state(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {"turned_away": self.turned_away.copy(), "seen": np.array([self.seen])}
        for position in range(len(self.columns)):
            vocabulary, waiting = self.vocabularies[position], self.waiting[position]
            order = sorted(waiting)
            arrays |= _packed(f"vocabulary{position}", list(vocabulary))
            arrays |= _packed(f"waiting{position}", order)
            arrays[f"waiting{position}_counts"] = np.array([waiting[word] for word in order], np.int64)
        return arrays

    def restore(self, state: State) -> None:
        self.turned_away, self.seen = state["turned_away"].astype(np.int64), int(state["seen"][0])
        for position in range(len(self.columns)):
            words = _unpacked(f"vocabulary{position}", state)
            order, counts = _unpacked(f"waiting{position}", state), state[f"waiting{position}_counts"]
            if len(words) > self.cap or len(set(words)) != len(words):
                raise ValueError(f"expected at most {self.cap} different values of {self.columns[position]!r}")
            self.vocabularies[position] = {word: place for place, word in enumerate(words, start=1)}
            self.waiting[position] = dict(zip(order, map(int, counts), strict=True))

    def counts(self) -> dict[str, int]:
        return {"turned_away": int(self.turned_away.sum())}

    def check(self) -> None:
        super().check()
        if self.rows < 1:
            raise ValueError(f"expected rows >= 1, found {self.rows}")
        if self.min_count < 1 or not 1 <= self.cap <= _MAX_CAP:
            raise ValueError(f"expected min_count >= 1 and cap in [1, {_MAX_CAP}], found {self.min_count}, {self.cap}")


def _packed(name: str, words: list[str]) -> dict[str, NDArray[Any]]:
    """Return strings as their UTF-8 bytes and the end of each."""
    encoded = [word.encode() for word in words]
    return {
        f"{name}_bytes": np.frombuffer(b"".join(encoded), np.uint8),
        f"{name}_ends": np.cumsum([len(word) for word in encoded], dtype=np.int64),
    }


def _unpacked(name: str, state: State) -> list[str]:
    content, ends = state[f"{name}_bytes"].tobytes(), state[f"{name}_ends"]
    starts = [0, *ends[:-1]] if len(ends) else []
    return [content[start:end].decode() for start, end in zip(starts, ends, strict=True)]
