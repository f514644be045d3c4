"""What the label column holds: two classes, several, or numbers."""

from ml_core.data.inspect.findings import CORRECT, Column, Label
from ml_core.data.inspect.table import SourceTable
from ml_core.data.tables import quoted
from ml_core.errors import SourceError, nearest

MOST_CLASSES = 30


def label_of(source: SourceTable, column: Column, kind: str | None, positive: str | None) -> Label:
    """Return what a label holds; `kind` and `positive`, the class whose probability is wanted, overrule what is found.

    Raises
    ------
    SourceError
        It has one value or too many, or does not fit what overrules.
    """
    name = quoted(column.name)
    counted = source.connection.execute(
        f"select {name}::varchar, count(*) from source where {name} is not null group by 1 order by 2 desc, 1"
        f" limit {MOST_CLASSES + 1}"
    ).fetchall()
    texts = [text for text, _ in counted if not (column.kind == "number" and text.lower() == "nan")]
    if not texts:
        raise SourceError(f"{source.path}: column {column.name!r} is empty in every row; choose another --label")
    if len(texts) < 2:  # noqa: PLR2004 - nothing to tell apart
        raise SourceError(f"{source.path}: expected a label of at least two values in {column.name!r}, found {texts}")
    numbers = _numbers(texts)
    found = len(texts if numbers is None else numbers)
    kind = _kind(source, column, texts, kind, found)
    if kind == "regression":
        return Label(kind, (), 0)
    if len(texts) > MOST_CLASSES:
        raise SourceError(
            f"{source.path}: expected a label of at most {MOST_CLASSES} classes in {column.name!r}, found"
            f" {column.distinct} different values{_but(column) or '; choose another --label'}"
        )
    if numbers == set(range(found)):
        return Label(kind, (), found)
    if kind == "binary" and positive is None:
        positive = texts[-1]
        source.notes.append(f"predicts the probability of {column.name} = {positive!r}, the rarer of {texts}")
    if positive is not None and positive not in texts:
        raise SourceError(f"{source.path}: label {column.name!r} is never {positive!r}: {nearest(positive, texts)}")
    classes = sorted(texts) if positive is None else [*(text for text in texts if text != positive), positive]
    return Label(kind, tuple(classes), len(classes))


def _kind(source: SourceTable, column: Column, texts: list[str], kind: str | None, found: int) -> str:
    """Return the kind of a label of `found` different values, which has to be one that the values fit."""
    numeric = column.kind == "number"
    if kind is None:
        kind = "binary" if found == 2 else "regression" if numeric else "multiclass"  # noqa: PLR2004
    if kind == "regression" and not numeric:
        raise SourceError(f"{source.path}: expected numbers in the label {column.name!r} of a regression{_but(column)}")
    if kind == "binary" and found != 2:  # noqa: PLR2004
        raise SourceError(
            f"{source.path}: expected two values in the label {column.name!r} of --kind binary, found {found}:"
            f" {', '.join(texts[:5])}"
        )
    return kind


def _numbers(texts: list[str]) -> set[float] | None:
    """Return what texts stand for where all are numbers, or true and false in any case; else None."""
    truths = {"false": 0.0, "true": 1.0}
    try:
        return {truths[text.lower()] if text.lower() in truths else float(text) for text in texts}
    except ValueError:
        return None


def _but(column: Column) -> str:
    return f": {column.strays}; {CORRECT}" if column.strays else ""
