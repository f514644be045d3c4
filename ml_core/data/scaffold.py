"""What `modelflow new` writes: the table of the project file, `features.sql` and a sample request.

Everything is text a person would have written: commented where a guess was made, and theirs to change afterwards.
Nothing that exists is overwritten.
"""

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path

from ml_core.data.inspect import Column, Inspection
from ml_core.data.inspect.findings import CORRECT
from ml_core.data.sources import fact_column
from ml_core.data.tables import quoted
from ml_core.errors import ProjectError, nearest
from ml_core.project import PROJECT_FILE

ENTITY, LABELS, ROW = "requested", "outcome", "row"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FREE_TEXT_WORDS = 4.0

WORKSPACE = """\
load_from:
  - python_module:
      module_name: orchestration.definitions
      attribute: defs
      location_name: modelflow
"""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A flow that could be made of a table.

    Attributes
    ----------
    name : str
    path : Path
        Of the source, as the project file should name it.
    table, key : str or None
    inspection : Inspection
        With `event_time` and `label` known.
    time_zone : str
    label_delay : timedelta
    ends : bool
        Whether the table is a finished history.
    without, keep : tuple of str
        Columns to leave out, and columns to use that would be left out on a suspicion.
    owners : tuple of str

    Raises
    ------
    ProjectError
        The name cannot be one, or `without` or `keep` cannot be followed.
    """

    name: str
    path: Path
    table: str | None
    key: str | None
    inspection: Inspection
    time_zone: str
    label_delay: timedelta
    ends: bool
    without: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ProjectError(
                f"expected a flow's name of letters, digits and _, found {self.name!r}; it names assets and folders"
            )
        columns = {column.name: column for column in self.inspection.columns}
        for option, names in (("--without", self.without), ("--keep", self.keep)):
            for name in names:
                if name not in columns:
                    raise ProjectError(f"{option} {name}: no such column: {nearest(name, columns)}")
        for name in self.keep:
            why_not = "--without leaves it out" if name in self.without else self._useless(columns[name])
            if why_not:
                raise ProjectError(f"--keep {name}: it cannot be a feature: {why_not}; leave the option out")

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that become features."""
        return tuple(column for column in self.inspection.columns if column.name not in self.left_out)

    @property
    def left_out(self) -> dict[str, str]:
        """The columns that do not become features, and why."""
        reasons: dict[str, str] = {}
        for column in self.inspection.columns:
            why = "not wanted" if column.name in self.without else self._useless(column)
            if not why and column.name not in self.keep:
                why = self._doubtful(column)
            if why:
                reasons[column.name] = why
        return reasons

    @property
    def notes(self) -> list[str]:
        """What a person should hear about: guesses that could be wrong."""
        known = {*self.without, self.key, self.inspection.event_time}
        strays = [
            f"{column.name}: {column.strays}, so it is taken as text; {CORRECT}"
            for column in self.inspection.columns
            if column.strays and column.name not in known
        ]
        return [*self.inspection.notes, *strays]

    def _useless(self, column: Column) -> str:
        """Say why a column cannot be a feature, "" where it can."""
        if column.name == self.inspection.event_time:
            return "is the row's time"
        if column.name == self.inspection.label:
            return "is the label"
        return "empty in every row" if column.kind == "empty" else "the same in every row" if column.constant else ""

    def _doubtful(self, column: Column) -> str:
        """Say why a column had better not be a feature, "" where nothing speaks against it."""
        found = self.inspection
        if column.name in found.suspects:
            return f"seems to know the label: {found.suspects[column.name]}"
        if column.name == self.key:
            return "names the row"
        if column.name in found.candidates["key"]:
            return "names the row" if self.key else f"names the row; use --key {column.name}, or rows are numbered"
        if column.kind == "text" and column.distinct > 1:
            if column.words > _FREE_TEXT_WORDS:
                return "free text; write a feature of it below, or a stage of your own"
            if column.distinct > 0.9 * (found.rows - column.missing):
                return "almost every row has a value of its own"
        return ""


@contextmanager
def written(proposal: Proposal, root: Path) -> Iterator[list[Path]]:
    """Write the flow's files and append its table to the project file; take it all back where what follows fails.

    Yields
    ------
    list of Path
        What was written.

    Raises
    ------
    ProjectError
        The flow exists already, or there is a file in the way.
    """
    if not proposal.features:
        raise ProjectError(f"flow {proposal.name}: expected a column to predict from, found {proposal.left_out}")
    project, folder = root / PROJECT_FILE, root / "flows" / proposal.name
    before = project.read_text(encoding="utf-8") if project.exists() else ""
    if re.search(rf"^\[flows\.{proposal.name}[.\]]", before, re.MULTILINE):
        raise ProjectError(f"{project}: there is a flow {proposal.name!r} already; choose another name or remove it")
    features = folder / "features.sql"
    if features.exists():
        raise ProjectError(f"{features} is there already; move it away or choose another name")
    with ExitStack() as undo:
        created = next((place for place in (folder.parent, folder) if not place.exists()), None)
        if created is not None:
            undo.callback(shutil.rmtree, created, ignore_errors=True)  # with what others wrote there meanwhile
        undo.callback(features.unlink, missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        features.write_text(featuresquoted(proposal), encoding="utf-8")
        if project.exists():
            undo.callback(project.write_text, before, encoding="utf-8")
        else:
            undo.callback(project.unlink, missing_ok=True)
        project.write_text(f"{before.rstrip()}\n\n{table(proposal)}".lstrip(), encoding="utf-8")
        files, workspace = [project, features], root / "workspace.yaml"
        if not workspace.exists():
            undo.callback(workspace.unlink, missing_ok=True)
            workspace.write_text(WORKSPACE, encoding="utf-8")
            files.append(workspace)
        yield files
        undo.pop_all()


def featuresquoted(proposal: Proposal) -> str:
    """Return the flow's `features.sql`."""
    zone = proposal.time_zone
    lines = [
        f"requests.{quoted(_key_column(proposal))} as key",
        "requests.request_time",
    ]
    lines += [_feature(column) for column in proposal.features]
    clock = f"(requests.request_time at time zone '{zone}')"
    names = {fact_column(column.name).lower() for column in proposal.features}
    lines += [f"{expression} as {name}" for name, expression in _clock_features(clock).items() if name not in names]
    out = "".join(f"-- left out: {name!r} ({why})\n" for name, why in proposal.left_out.items())
    return (
        f"-- The features of a row of {proposal.name} as of its time. Texts are categories, FLOAT is a number.\n"
        f"-- `{ENTITY}` and `{LABELS}` hold earlier rows and labels: join only those with known_at <= request_time.\n"
        f"{out}select\n    " + ",\n    ".join(lines) + "\nfrom requests\n"
    )


def table(proposal: Proposal) -> str:
    """Return the flow's table of the project file."""
    found, name = proposal.inspection, proposal.name
    source: dict[str, object] = {"path": proposal.path.as_posix()}
    optional = {
        "table": proposal.table, "event_time": found.event_time, "time_format": found.time_format,
        "time_zone": proposal.time_zone, "key": proposal.key, "label": found.label,
        "classes": list(found.label_found.classes) if found.label_found else None,
        "label_delay": _duration(proposal.label_delay), "delimiter": found.delimiter,
        "decimal": found.decimal if found.decimal != "." else None,
        "missing": list(found.missing) if found.missing != ("",) else None,
    }  # fmt: skip
    source |= {key: value for key, value in optional.items() if value}
    data = {
        "features": f"flows/{name}/features.sql", "entity": ENTITY, "key": _key_column(proposal),
        "request_time": fact_column(str(found.event_time)), "label_fact": LABELS,
        "label": fact_column(str(found.label)), "lookback": "1 day",
        "label_window": _duration(2 * proposal.label_delay + timedelta(days=1)),
    }  # fmt: skip
    starts, ends = _days(found)
    description = f"Predicts {found.label} for a row of {proposal.path.name}, as of its {found.event_time}."
    owners = [f"owners = {_toml(list(proposal.owners))}"] if proposal.owners else []
    last_day = f"ends = {ends}  # the table is a finished history; remove this line when rows keep coming"
    tables = {
        "": [f"description = {_toml(description)}", *owners],
        ".data": [*_pairs(data), f"starts = {starts}", *([last_day] if proposal.ends else [])],
        ".data.source": _pairs(source),
        ".data.source.columns": _pairs({column.name: column.kind for column in proposal.features}),
        ".full_training": ['cron = "30 3 * * *"', f"time_zone = {_toml(proposal.time_zone)}"],
        ".incremental_training": [f"min_rows = {_between(found.rows // 20, 100, 10_000)}", 'max_age = "1 day"'],
        ".gate": [f"min_rows = {_between(found.rows // 5, 20, 1_000)}"],
    }
    written = ["\n".join([f"[flows.{name}{inner}]", *lines]) for inner, lines in tables.items()]
    written.insert(4, "\n".join(_pipeline(proposal)))
    return "\n\n".join(written) + "\n"


def sample_request(row: dict[str, object]) -> str:
    """Return a feature row as a request that the sidecar's `POST /invocations` answers."""
    return json.dumps({"dataframe_records": [row]}, indent=2, ensure_ascii=False) + "\n"


def _pipeline(proposal: Proposal) -> list[str]:
    found, name = proposal.inspection.label_found, proposal.name
    names = {column.name: fact_column(column.name) for column in proposal.features}
    texts = [names[column.name] for column in proposal.features if column.kind == "text"]
    numbers = [names[column.name] for column in proposal.features if column.kind != "text"]
    clock = [key for key in _clock_features("") if key not in {name.lower() for name in names.values()}]
    distinct = sum(column.distinct for column in proposal.features if column.kind == "text") + 40
    stages = [("hash", {"bits": _between(math.ceil(math.log2(8 * distinct)), 10, 20), "columns": texts + clock})]
    if numbers:
        stages.append(("standardise", {"columns": numbers}))
    lines = []
    for stage, settings in stages:
        lines += ["", f"[[flows.{name}.pipeline.stages]]", f"stage = {_toml(stage)}", *_pairs(settings)]
    cuts = {names[c.name]: list(c.quantiles) for c in proposal.features if len(c.quantiles) > 2}  # noqa: PLR2004
    if cuts:
        lines += ["", f"[[flows.{name}.pipeline.stages]]", 'stage = "bucketize"  # at the deciles found in the table']
        lines += [f"[flows.{name}.pipeline.stages.boundaries]", *_pairs(cuts)]
    estimator: dict[str, object] = {"name": "FTRLClassifier", "alpha": 0.1, "beta": 1.0, "l1": 0.1, "l2": 1.0}
    if found is not None and found.kind == "regression":
        estimator["name"] = "FTRLRegressor"
    if found is not None and found.n_classes > 2:  # noqa: PLR2004 - two are the default
        estimator["n_classes"] = found.n_classes
    return [*lines[1:], "", f"[flows.{name}.pipeline.estimator]", *_pairs(estimator)]


def _feature(column: Column) -> str:
    name = quoted(fact_column(column.name))
    if column.kind == "text":
        return f"coalesce(requests.{name}, '') as {name}"
    if column.kind == "time":
        return f"(date_diff('minute', requests.{name}, requests.request_time) / 60)::float as {name}"
    return f"requests.{name}::float as {name}"


def _clock_features(clock: str) -> dict[str, str]:
    return {"hour": f"extract(hour from {clock})::varchar", "weekday": f"dayname({clock})"}


def _key_column(proposal: Proposal) -> str:
    if proposal.key is not None:
        return fact_column(proposal.key)
    taken, name = {fact_column(column.name).lower() for column in proposal.inspection.columns}, ROW
    while name in taken:
        name += "_"
    return name


def _days(found: Inspection) -> tuple[str, str]:
    if found.first is None or found.last is None:
        raise ProjectError("expected the span of the time column to be known")
    first, last = (moment.astimezone(UTC).date() for moment in (found.first, found.last))
    return first.isoformat(), (last + timedelta(days=1)).isoformat()


def _duration(length: timedelta) -> str:
    for unit, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, rest = divmod(round(length.total_seconds()), seconds)
        if not rest:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    raise AssertionError(length)


def _between(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _pairs(settings: dict[str, object] | dict[str, str] | dict[str, list[float]]) -> list[str]:
    return [f"{name if _NAME.fullmatch(name) else _toml(name)} = {_toml(value)}" for name, value in settings.items()]


def _toml(value: object) -> str:
    """Write a text, a number or a list of them; JSON's texts are TOML's basic strings."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
