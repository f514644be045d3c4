"""The error tree: the drawing in the module's docstring is the tree that is raised."""

import inspect
import re
from itertools import pairwise

import pytest

from ml_core import errors
from ml_core.errors import ModelFlowError

DRAWN = re.compile(r"^(?P<indent>[│├└─ ]*)(?P<name>\w+Error)\b(?P<rest>.*)$", re.MULTILINE)
CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ModelFlowError)]


def drawn_tree() -> dict[str, tuple[str | None, bool]]:
    """Read the drawing: class name → (parent's name, marked retryable)."""
    tree: dict[str, tuple[str | None, bool]] = {}
    ancestors: list[str] = []
    for line in DRAWN.finditer(inspect.getdoc(errors) or ""):
        depth = len(line["indent"]) // 4
        ancestors[depth:] = [line["name"]]
        tree[line["name"]] = (ancestors[depth - 1] if depth else None, "(retryable)" in line["rest"])
    return tree


def test_the_drawn_tree_is_the_real_one() -> None:
    """People choose what to catch from the drawing."""
    real = {}
    for cls in CLASSES:
        parent = next(base for base in cls.__mro__[1:] if issubclass(base, Exception))
        real[cls.__name__] = (parent.__name__ if issubclass(parent, ModelFlowError) else None, cls.retryable)
    assert drawn_tree() == real


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_whether_an_error_is_retryable_is_never_lost_on_the_way_down(cls: type[ModelFlowError]) -> None:
    """A leaf that is final below a retryable branch would be retried by whoever catches the branch."""
    for leaf, branch in pairwise(base for base in cls.__mro__ if issubclass(base, ModelFlowError)):
        assert leaf.retryable or not branch.retryable


def test_refused_rows_are_value_errors() -> None:
    """scikit-learn's users catch ValueError around partial_fit."""
    assert issubclass(errors.InputError, ValueError)
