"""How the figures of a verdict are written where people read them."""

import pytest

from ml_core.flow.verdict import readable, signed


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (39_990.0, "39,990"), (0.0, "0"), (-0.0, "0"), (20_000.0, "20,000"), (0.35182, "0.3518"),
        (-1.26789, "-1.268"), (1e-7, "1e-07"), (12_345.678, "12,346"), (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_counts_are_read_in_full_and_other_figures_to_four_digits(figure: float, text: str) -> None:
    """`slice_rows 3.999e+04` told nobody how many rows there were."""
    assert readable(figure) == text


@pytest.mark.parametrize(
    ("difference", "text"), [(0.0, "0"), (-0.0, "0"), (0.00312, "+0.00312"), (-4e-7, "-4e-07"), (0.002, "+0.002")]
)
def test_a_difference_of_nothing_has_no_sign(difference: float, text: str) -> None:
    assert signed(difference) == text
