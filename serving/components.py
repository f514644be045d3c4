"""`modelflow components`: what a pipeline can be made of, and what each part can do as tried here and now."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from ml_core.pipeline.catalogue import Trial, components, trial
from ml_core.pipeline.rehearsal import made_up_rows
from serving.packing import open_session, packed_graph
from serving.rows import RowReader
from serving.scorer import prove_scorers

_GOLDEN_ROWS = 20


@dataclass(frozen=True, slots=True)
class Component:
    """One line of the catalogue.

    Attributes
    ----------
    name, role, told, increments, resumes, refused
        As in `ml_core.pipeline.catalogue.Trial`.
    row_scorer : bool
        Whether a pipeline of it scores single rows without the graph; else the graph scores them.
    """

    name: str
    role: str
    told: Mapping[str, Any]
    increments: str
    resumes: bool
    row_scorer: bool
    refused: str | None

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows of it."""
        told = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.told.items())
        return (
            self.name,
            self.role,
            self.increments,
            *("yes" if it else "no" for it in (self.resumes, self.row_scorer)),
            told,
        )


HEAD = ("name", "role", "learns new rows", "resumes exactly", "row scorer", "tried with")


def catalogue(like: str = "") -> Iterator[Component]:
    """Try every part whose name holds `like`, one after the other."""
    for role, name in components():
        if like.lower() in name.lower():
            tried = trial(role, name)
            yield Component(
                name, role, tried.told, tried.increments, tried.resumes, _has_row_scorer(tried), tried.refused
            )


def command(
    like: Annotated[str, typer.Argument(help="only names that hold this")] = "",
    refused: Annotated[bool, typer.Option("--refused", help="those that cannot be served, and why")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per line, refused ones too")] = False,
) -> None:
    """List every stage and estimator that can be used by name, with what each can do as tried; takes a minute."""
    head = ("name", "role", "why not") if refused else HEAD
    table = Table(*(Column(name, overflow="fold") for name in head))
    for found in catalogue(like):
        if as_json:
            fields = {name: getattr(found, name) for name in Component.__slots__}
            typer.echo(json.dumps(fields))
        elif refused and found.refused:
            table.add_row(found.name, found.role, found.refused)
        elif not refused and not found.refused:
            table.add_row(*found.cells)
    if not as_json:
        Console().print(table)


def _has_row_scorer(tried: Trial) -> bool:
    if tried.model is None:
        return False
    signature = tried.model.signature
    packed = packed_graph(tried.model.to_onnx(), signature)
    session = open_session(packed)
    golden = made_up_rows(signature).slice(0, _GOLDEN_ROWS).to_pydict()
    score = lambda feed: session.run(["score"], feed)[0]  # noqa: E731 - the session's own call
    return prove_scorers(packed, RowReader(signature), score, golden) is not None
