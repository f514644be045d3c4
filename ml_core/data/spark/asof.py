"""The `asof join` in Spark, which has none: both sides in one order, and the last row of the right side carried on.

    select ... from (
        select *, last_value(found) ignore nulls over (partition by keys order by moment, side) as found
        from (left rows without `found`  union all  right rows as `found`)
    ) where side is left

One sort, where a join on an inequality would compare every pair. Of right rows with one key and one moment either
engine takes any: a definition of features has to leave one.
"""

from dataclasses import dataclass

from sqlglot import exp

from ml_core.data.spark.rules import refuse
from ml_core.data.spark.scope import bare, ticked
from ml_core.data.spark.writer import Writer

_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {exp.GTE: exp.LTE, exp.GT: exp.LT, exp.LTE: exp.GTE, exp.LT: exp.GT}


@dataclass(frozen=True, slots=True)
class Conditions:
    """What an asof join compares: equal pairs of (left, right), and the pair of moments with their comparison."""

    equal: list[tuple[exp.Expr, exp.Expr]]
    left: exp.Expr
    right: exp.Expr
    comparison: type[exp.Expr]


def conditions(join: exp.Join, right: str) -> Conditions:
    """Take the condition of an asof join apart; `right` is the alias of its right side."""
    on = join.args.get("on")
    if on is None:
        refuse(join, "asof join using")
    equal, moments = [], []
    for part in on.flatten() if isinstance(on, exp.And) else [on]:
        condition = bare(part)
        if type(condition) not in {exp.EQ, *_MIRRORED}:
            refuse(part, f"{condition.key} in the condition of an asof join", hint="put it into `where`")
        sides = [
            {column.table for column in side.find_all(exp.Column)} for side in (condition.this, condition.expression)
        ]
        if sides[1] == {right} and right not in sides[0]:
            pair, kind = (condition.this, condition.expression), type(condition)
        elif sides[0] == {right} and right not in sides[1]:
            pair, kind = (condition.expression, condition.this), _MIRRORED.get(type(condition), exp.EQ)
        else:
            refuse(part, "a condition of an asof join within one side", hint="put it into `where`")
        if kind is exp.EQ:
            equal.append(pair)
        else:
            moments.append((pair, kind))
    if len(moments) != 1:
        refuse(join, f"an asof join with {len(moments)} inequalities", hint="compare one moment of each side")
    ((left, found), kind) = moments[0]
    return Conditions(equal, left, found, kind)


def asof(
    writer: Writer,
    found: Conditions,
    *,
    texts: tuple[str, str],
    columns: tuple[dict[str, str], dict[str, str]],
    outer: bool,
) -> str:
    """Return the derived table that stands for an asof join.

    Parameters
    ----------
    writer : Writer
        Knows both sides.
    found : Conditions
    texts : (left, right)
        What stands behind `from` for each side.
    columns : (left, right)
        Per side the columns needed: the name each gets in the derived table, and its Spark text.
    outer : bool
        Whether left rows without a right one stay.
    """
    kept, carried = columns
    keys = [ticked(f"k{number}") for number in range(len(found.equal))]
    for each, other in [*found.equal, (found.left, found.right)]:
        if writer.type(each) != writer.type(other):
            refuse(each, f"an asof join of {writer.type(each)} and {writer.type(other)}", hint="cast one of them")
    moment, later = writer.write(found.right), found.comparison in (exp.GT, exp.GTE)
    # at equal moments a right row comes first where it counts
    side = {"left": 1, "right": 0 if found.comparison in (exp.GTE, exp.LTE) else 2}
    names = [ticked(name) for name in kept]
    of_left = ", ".join(
        [
            f"{side['left']} as side",
            *(f"{writer.write(pair[0])} as {key}" for pair, key in zip(found.equal, keys, strict=True)),
            f"{writer.write(found.left)} as moment",
            *(f"{text} as {name}" for text, name in zip(kept.values(), names, strict=True)),
            "null as carried",
        ]
    )
    fields = ", ".join(f"'{name}', {text}" for name, text in carried.items())
    of_right = ", ".join(
        [
            f"{side['right']} as side",
            *(f"{writer.write(pair[1])} as {key}" for pair, key in zip(found.equal, keys, strict=True)),
            f"{moment} as moment",
            *(f"null as {name}" for name in names),
            f"named_struct('here', true{', ' + fields if fields else ''}) as carried",
        ]
    )
    present = " and ".join(f"{writer.write(pair[1])} is not null" for pair in found.equal)
    ordered = f"order by moment {'asc' if later else 'desc'} nulls first, side rows unbounded preceding"
    partition = f"partition by {', '.join(keys)} " if keys else ""
    chosen = ", ".join([*names, *(f"found.{ticked(name)} as {ticked(name)}" for name in carried)])
    return (
        f"(select {chosen} from (select *, last_value(carried, true) over ({partition}{ordered}) as found from"
        f" (select {of_left} from {texts[0]} union all select {of_right}"
        f" from {texts[1]} where {moment} is not null{' and ' + present if present else ''}))"
        f" where side = {side['left']}{'' if outer else ' and found is not null'})"
    )
