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
    texts = [text for text, _ in counted]
    if not texts:
        raise SourceError(f"{source.path}: column {column.name!r} is empty in every row; choose another --label")
    if len(texts) < 2:  # noqa: PLR2004 - nothing to tell apart
        raise SourceError(f"{source.path}: expected a label of at least two values in {column.name!r}, found {texts}")
    numeric = column.kind == "number"
    if kind is None:
        kind = "binary" if len(texts) == 2 else "regression" if numeric else "multiclass"  # noqa: PLR2004
    if kind == "regression":
        if not numeric:
            raise SourceError(
                f"{source.path}: expected numbers in the label {column.name!r} of a regression{_but(column)}"
            )
        return Label(kind, (), 0)
    if len(texts) > MOST_CLASSES:
        raise SourceError(
            f"{source.path}: expected a label of at most {MOST_CLASSES} classes in {column.name!r}, found"
            f" {column.distinct} different values{_but(column) or '; choose another --label'}"
        )
    if set(texts) <= {str(number) for number in range(len(texts))} or set(texts) == {"true", "false"}:
        return Label(kind, (), len(texts))
    if kind == "binary" and positive is None:
        positive = texts[-1]
        source.notes.append(f"predicts the probability of {column.name} = {positive!r}, the rarer of {texts}")
    if positive is not None and positive not in texts:
        raise SourceError(f"{source.path}: label {column.name!r} is never {positive!r}: {nearest(positive, texts)}")
    classes = sorted(texts) if positive is None else [*(text for text in texts if text != positive), positive]
    return Label(kind, tuple(classes), len(classes))


def _but(column: Column) -> str:
    return f": {column.strays}; {CORRECT}" if column.strays else ""
