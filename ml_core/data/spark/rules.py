"""The table of what is translated: a rule per construct or function, and the refusal of everything else.

A rule writes one kind of node of sqlglot's tree as Spark SQL. What has no rule is refused by name, so that a
construct whose meaning nobody compared can never run. docs/spark.md lists the names of this table; a test compares.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sqlglot import exp

from ml_core.errors import FeatureError

if TYPE_CHECKING:
    from ml_core.data.spark.writer import Writer

Rule = Callable[["Writer", Any], str]
Made = TypeVar("Made", bound=Rule)

RULES: dict[type[exp.Expr], Rule] = {}
CALLS: dict[str, Rule] = {}
AGGREGATES: dict[type[exp.Expr], Rule] = {}
WINDOWS: dict[type[exp.Expr], Rule] = {}
NAMES: dict[str, list[str]] = {"operators": [], "functions": [], "aggregates": [], "windows": [], "queries": []}

HINTS = {
    "cast": "let the loader write the column in that type",
    "decimal": "write it as a double, such as 0.5::double",
    "round": "cast to integer instead, which rounds halves to even in both",
    "first": "use arg_min or arg_max, which say which row is meant",
    "last": "use arg_min or arg_max, which say which row is meant",
    "order by": "leave it out: the feature table has its own order",
    "limit": "leave it out: a feature table has a row for every request",
    "semi join": "write `where exists (...)`",
    "anti join": "write `where not exists (...)`",
    "asof join using": "write the conditions with `on`",
}


def rule(group: str, names: Iterable[str], *kinds: type[exp.Expr]) -> Callable[[Made], Made]:
    """Enter a function into the table as the rule of node `kinds`, known to people by `names`."""

    def enter(made: Made) -> Made:
        NAMES[group].extend(names)
        table = {"aggregates": AGGREGATES, "windows": WINDOWS}.get(group, RULES)
        table.update(dict.fromkeys(kinds, made))
        return made

    return enter


def call(*names: str) -> Callable[[Made], Made]:
    """Enter the rule of functions that sqlglot has no class for."""

    def enter(made: Made) -> Made:
        NAMES["functions"].extend(names)
        CALLS.update(dict.fromkeys(names, made))
        return made

    return enter


def refuse(node: exp.Expr | None, what: str, why: str = "", *, hint: str = "") -> NoReturn:
    """Raise FeatureError: `what` is not translated; the caller adds the file.

    Parameters
    ----------
    node : Expression or None
        Where it stands.
    what : str
        The construct as a person would call it.
    why : str
        What differs between the engines, where that is the reason.
    hint : str
        What to write instead.
    """
    found = [part.meta["line"] for part in node.walk() if "line" in part.meta] if node is not None else []
    line = f", line {min(found)}" if found else ""
    advice = hint or HINTS.get(what, "write it otherwise")
    reason = f" ({why})" if why else ""
    raise FeatureError(
        f'{line}: {what} is not translated for Spark{reason}; {advice}, or set engine = "duckdb"'
        " (docs/spark.md lists what is)"
    )


def name_of(node: exp.Expr) -> str:
    """Return what a person calls a node: a function by its name, a construct in words."""
    if isinstance(node, exp.Explode):
        return "unnest"
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        return str(node.name).lower()
    if isinstance(node, exp.Func):
        return node.sql_name().lower()
    return str(node.key).replace("_", " ")
