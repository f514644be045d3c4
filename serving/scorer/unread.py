"""What a body whose values have not been made offers to whoever scores it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.scorer.texts import Texts


class Unread(Mapping[str, Sequence[Any]]):
    """Columns whose values have not been made; asked for one by name, they are."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def texts(self, names: Sequence[str]) -> Texts:
        """Return string columns."""

    @abstractmethod
    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Return number columns, shape (n_columns, n_rows), NaN where missing."""
