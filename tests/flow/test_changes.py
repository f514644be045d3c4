"""What differs between two arrays, there and back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from ml_core.flow.changes import BLOCKS, apply, difference

# few distinct values, so that entries stay, come again, appear and disappear; -0.0 and NaN are bits like others
_VALUES = st.sampled_from([0.0, -0.0, 1.0, -2.5, 0.1, float("nan"), float("inf")])


@given(st.data(), st.sampled_from([np.float32, np.float64]), st.integers(0, 60))
def test_what_changed_is_restored_bit_for_bit(data: st.DataObject, dtype: type[Any], size: int) -> None:
    before, after = (data.draw(arrays.arrays(dtype, size, elements=_VALUES)) for _ in range(2))
    count, blocks = difference(before, after)
    assert len(blocks) == BLOCKS
    assert count == sum(old.tobytes() != new.tobytes() for old, new in zip(before, after, strict=True))
    found = before.copy()
    apply(found, count, blocks)
    assert found.tobytes() == after.tobytes()


def test_a_value_that_appears_often_is_written_once() -> None:
    """The slots that one row makes appear share its gradient."""
    before, after = np.zeros(10_000), np.zeros(10_000)
    after[::2] = np.repeat(np.random.default_rng(1).normal(size=50), 100)
    _, blocks = difference(before, after)
    assert len(blocks[2]) == 50 * 8


@pytest.mark.parametrize("more", [b"", b"\xff", b"\xff" * 64])
@pytest.mark.parametrize("place", range(BLOCKS))
def test_blocks_that_do_not_fit_change_nothing(place: int, more: bytes) -> None:
    before: NDArray[np.float64] = np.array([1.0, 0.0, 2.0, 0.0, 3.0, 3.0])
    after = np.array([4.0, 5.0, 2.0, 5.0, 6.0, 6.0])
    count, blocks = difference(before, after)
    blocks[place] = blocks[place] + more if more else blocks[place][:-1]
    found = before.copy()
    with pytest.raises((ValueError, IndexError)):
        apply(found, count, blocks)
    assert found.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("gaps", "reason"),
    [([0], "expected 2 numbers"), ([1, 0], "each once"), ([2, 1], "that were 0"), ([1, 9], "out of bounds")],
)
def test_what_appears_has_to_be_new(gaps: list[int], reason: str) -> None:
    before: NDArray[np.float64] = np.array([1.0, 0.0, 2.0, 0.0, 3.0, 3.0])
    count, blocks = difference(before, np.array([1.0, 5.0, 2.0, 5.0, 3.0, 3.0]))
    blocks[1] = np.array(gaps, np.uint32).view(np.uint8).reshape(-1, 4).T.tobytes()
    with pytest.raises((ValueError, IndexError), match=reason):
        apply(before, count, blocks)


def test_too_few_blocks_are_refused() -> None:
    before = np.zeros(3)
    count, blocks = difference(before, np.ones(3))
    with pytest.raises(ValueError, match="unpack"):
        apply(before, count, blocks[:-1])
