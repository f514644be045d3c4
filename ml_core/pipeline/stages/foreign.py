"""A stage that is a transformer of another library, scikit-learn's above all, by its dotted path.

It is fitted in batch before any row is learned, and makes entries of the row at slots of its own, or takes the place of
its columns for the stages after it. Under ``frozen`` it never changes again; under ``updating`` it takes each batch in
by `partial_fit`, after the batch was transformed by what came before. Nothing an earlier batch was transformed by
depends on a later one, but a library's running sums depend on where batches were cut; only our own stages do not.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone
from sklearn.preprocessing import OneHotEncoder

from ml_core.errors import ExportError, InputError
from ml_core.pipeline.columns import Columns, Text
from ml_core.pipeline.convert import write_transformer
from ml_core.pipeline.graph import Dense, GraphWriter, Part
from ml_core.pipeline.library import KEPT, ask, keep, make, release, restore
from ml_core.pipeline.stages.base import Stage, State


class Foreign(Stage):
    """A transformer of another library.

    Parameters
    ----------
    kind : str
        Its dotted path.
    columns : tuple of str
        All of one type.
    takes : {"string", "float"}
        That type. A missing string is "", a missing number NaN.
    parameters : mapping
        The transformer's own.
    policy : {"frozen", "updating"}, optional
        By default ``updating`` where it has `partial_fit`; without one the policy has to be said for an incremental
        flow.
    into : {"row", "columns"}
        Where what it makes goes; ``columns`` for a transformer that makes one number of each of its numbers. In the row
        a number that is still missing is 0, unless the estimator takes missing ones.
    """

    policies = ("frozen", "updating")

    def __init__(  # noqa: PLR0917 - as the project file has them
        self,
        kind: str,
        columns: tuple[str, ...],
        takes: str,
        parameters: dict[str, Any],
        policy: str | None = None,
        into: str = "row",
    ) -> None:
        self.kind = kind  # type: ignore[misc]  # its name is its path
        self.takes = takes  # type: ignore[misc]  # and its columns decide what it takes
        self.columns = columns
        self.parameters = dict(sorted(parameters.items()))
        self.into = into
        self._unfitted = make(kind, parameters, f"pipeline stage {kind!r}")
        self._learns = hasattr(self._unfitted, "partial_fit")
        self.policy = policy or ("updating" if self._learns else None)
        self.fitted: Any = None
        self._width = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def n_slots(self) -> int:
        return self._width if self.into == "row" else 0

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "columns": self.columns,
            "policy": self.policy,
            "into": self.into,
            "parameters": self.parameters,
            "library": release(self.kind),
        }

    @property
    def exact(self) -> bool:
        return self.policy == "frozen" and self.kept

    @property
    def kept(self) -> bool:
        """Whether its fitted state can be written without pickle."""
        return self.kind in KEPT

    @property
    def obstacle(self) -> str | None:
        return "its library has no rule by which states that learned side by side become one"

    @property
    def hindrance(self) -> str | None:
        if self.policy is None:
            return 'it has no partial_fit; policy = "frozen" keeps what it learned in the full training'
        return None if self.kept else "its fitted state cannot be kept without pickle"

    def fit(self, columns: Columns, targets: NDArray[np.float64]) -> sparse.csr_array:
        """Fit it on whole columns; return the entries it makes of them, CSR (n_rows, n_slots)."""
        self.fitted = clone(self._unfitted)
        values = self._matrix(columns)
        # a supervised one may transform the rows it learns from differently, and has to
        return self._entries(self._ask(self.fitted.fit_transform, values, targets), columns)

    def block(self, columns: Columns, rows: int, *, learn: bool) -> sparse.csr_array:
        values = self._matrix(columns)
        if self.fitted is None:
            raise InputError(f"pipeline stage {self.kind!r} was not fitted yet; run the full training")
        if not rows:
            return sparse.csr_array((0, self.n_slots))
        made = self._entries(self._ask(self.fitted.transform, values), columns)
        if learn and self.policy == "updating":
            self._ask(self.fitted.partial_fit, values)
        return made

    def transform(
        self, columns: Columns, slots: NDArray[np.int32], values: NDArray[np.float64], *, learn: bool
    ) -> None:
        raise NotImplementedError("its entries are a block")

    def write(self, graph: GraphWriter) -> list[Part]:
        strings = self.takes == "string"
        read = graph.texts(self.columns) if strings else graph.numbers(self.columns)[0]
        try:
            made = write_transformer(graph, self.fitted, graph.turned(read), width=len(self.columns), strings=strings)
        except ExportError as error:
            raise ExportError(f"pipeline stage {self.kind!r}: {error}") from error
        numbers = graph.turned(made)
        if self.into == "columns":
            graph.replace_numbers(numbers, self.columns)
            return []
        if self.keeps_missing or isinstance(self.fitted, OneHotEncoder):  # which makes nothing but 0 and 1
            return [Dense(numbers)]
        missing = graph.add("IsNaN", numbers)
        return [Dense(graph.add("Where", missing, graph.constant(np.float64(0)), numbers))]

    def state(self) -> dict[str, NDArray[Any]]:
        return keep(self.fitted) | {"width": np.array([self._width])} if self.kept and self.fitted is not None else {}

    def restore(self, state: State) -> None:
        if not state:  # it was not fitted yet, or is not kept and does not change
            return
        self.fitted, self._width = restore(self._unfitted, dict(state)), int(state["width"][0])

    def check(self) -> None:
        if self.policy is not None and self.policy not in self.policies:
            raise ValueError(f"expected policy among {', '.join(self.policies)}, found {self.policy!r}")
        if self.policy == "updating" and not self._learns:
            raise ValueError('it has no partial_fit, so that it cannot be "updating"; expected policy = "frozen"')
        if self.into not in {"row", "columns"}:
            raise ValueError(f"expected into = 'row' or 'columns', found {self.into!r}")
        if self.into == "columns" and self.takes == "string":
            raise ValueError("expected number columns to take the place of, found strings")
        if not hasattr(self._unfitted, "transform"):
            raise ValueError("expected a transformer, found a class without `transform`")

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return ask(f"pipeline stage {self.kind!r}", call, *arguments)

    def _matrix(self, columns: Columns) -> NDArray[Any]:
        if self.takes == "float":
            return np.column_stack([columns[name] for name in self.columns]).astype(np.float64)
        return np.column_stack([_strings(columns[name]) for name in self.columns])

    def _entries(self, made: Any, columns: Columns) -> sparse.csr_array:
        entries: Any = made.tocsr() if sparse.issparse(made) else np.array(made, np.float64)
        values: NDArray[np.float64] = entries.data if sparse.issparse(entries) else entries
        if np.isinf(values).any():
            raise InputError(
                f"pipeline stage {self.kind!r}: expected finite numbers, found that it made an infinite one"
            )
        if self.into == "columns":
            if entries.shape[1] != len(self.columns):
                raise InputError(
                    f"pipeline stage {self.kind!r}: made {entries.shape[1]} of {len(self.columns)} columns"
                )
            dense = entries.toarray() if sparse.issparse(entries) else entries
            columns |= {name: np.ascontiguousarray(dense[:, place]) for place, name in enumerate(self.columns)}
            return sparse.csr_array((len(dense), 0))
        if not self.keeps_missing and np.isnan(values).any():
            values[np.isnan(values)] = 0.0
        self._width = entries.shape[1]
        return sparse.csr_array(entries, dtype=np.float64)


def _strings(text: Text) -> NDArray[np.object_]:
    words = np.empty(len(text.distinct), object)
    words[:] = text.distinct
    return words[text.codes]
