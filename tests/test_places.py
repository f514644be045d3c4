"""A message that names a line leads there."""

import pytest

from ml_core.places import line_of, sql_line

TEXT = """\
top = 1

[flows.a.data]
label = "x"
"odd key" = 2

[[flows.a.pipeline.stages]]
stage = "hash"

[[flows.a.pipeline.stages]]
stage = "clip"
[flows.a.pipeline.stages.limits]
low = 1
"""


@pytest.mark.parametrize(
    ("location", "line"),
    [
        (("top",), 1),
        (("flows", "a", "data"), 3),
        (("flows", "a", "data", "label"), 4),
        (("flows", "a", "data", "odd key"), 5),
        (("flows", "a", "data", "absent"), 3),
        (("flows", "a", "pipeline", "stages", 1, "stage"), 11),
        (("flows", "a", "pipeline", "stages", 1, "limits", "low"), 13),
        (("flows", "b"), None),
    ],
)
def test_a_key_is_found_on_its_line_or_by_the_table_it_should_stand_in(
    location: tuple[int | str, ...], line: int | None
) -> None:
    """A project of fifty flows is long, and its keys repeat."""
    assert line_of(TEXT, location) == line


def test_the_line_of_a_mistake_in_sql_is_read_from_the_message() -> None:
    """Column names repeat in a query; the line tells which."""
    assert sql_line("Binder Error: no column\n\nLINE 4:  foo\n   ^") == 4
    assert sql_line("Out of memory") is None
