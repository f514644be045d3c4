"""The project file: what is read, what is refused and in which words, and that every key is explained."""

import re
import runpy
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from ml_core.errors import ProjectError
from ml_core.project import Duration, Project, load_project, tables

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = (ROOT / "dagster_project.toml").read_text(encoding="utf-8")


def project_with(folder: Path, old: str = "", new: str = "") -> Project:
    """Read the shipped project file, changed in one place."""
    assert old in SHIPPED
    (folder / "dagster_project.toml").write_text(SHIPPED.replace(old, new, 1), encoding="utf-8")
    return load_project(folder, environment={})


def test_the_shipped_file_describes_one_flow() -> None:
    """Everything in the house starts from this file."""
    project = load_project(ROOT, environment={})
    flow = project.flow("flight_delays")
    assert (flow.name, flow.address) == ("flight_delays", "models:/flight_delays/Production")
    assert flow.data.label_window == timedelta(days=7)


def test_the_file_is_found_from_a_folder_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`modelflow` works anywhere inside a project, as git does."""
    monkeypatch.chdir(ROOT / "flows" / "flight_delays")
    assert load_project(environment={}).root == ROOT


def test_outside_a_project_the_message_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the first thing a newcomer sees is a stack trace."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError, match=rf"found no dagster_project.toml in {tmp_path} or above it"):
        load_project(environment={})
    with pytest.raises(ProjectError, match="expected a project file at"):
        load_project(tmp_path, environment={})


def test_state_and_registry_are_beside_the_file_unless_the_environment_moves_them(tmp_path: Path) -> None:
    """Two platforms on one machine must be able to live apart."""
    here = project_with(tmp_path)
    assert (here.home, here.tracking_uri) == (tmp_path / "var", f"sqlite:///{tmp_path}/var/mlflow/mlflow.db")
    moved = load_project(tmp_path, environment={"MODELFLOW_HOME": "/srv/flows"})
    assert (moved.home, moved.tracking_uri) == (Path("/srv/flows"), "sqlite:////srv/flows/mlflow/mlflow.db")
    remote = load_project(tmp_path, environment={"MLFLOW_TRACKING_URI": "http://registry:5000"})
    assert remote.tracking_uri == "http://registry:5000"


def test_the_environment_names_the_registry_before_the_file_does(tmp_path: Path) -> None:
    """A deployment overrides a committed file, never the other way round."""
    named = 'tracking_uri = "http://a:5000"\n\n[platform]'
    assert project_with(tmp_path, "[platform]", named).tracking_uri == "http://a:5000"
    override = {"MLFLOW_TRACKING_URI": "http://b:5000"}
    assert load_project(tmp_path, environment=override).tracking_uri == "http://b:5000"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("min_rows = 1000", "min_row = 1000", "unknown key flows.flight_delays.gate.min_row: did you mean 'min_rows'?"),
        ("[platform]", "[platfrom]", "unknown key platfrom: did you mean 'platform'?"),
        (
            "[flows.flight_delays.gate]",
            "[flows.flight_delays.gates]",
            "unknown key flows.flight_delays.gates: did you mean 'gate'?",
        ),
        ("sidecar_port = 8080", "zzz = 1", "unknown key platform.zzz: valid keys: dagster_port, mlflow_port"),
        ('label = "late"\n', "", "missing key flows.flight_delays.data.label: the label column of that fact"),
        (
            'lookback = "8 days"',
            'lookback = "a week"',
            "lookback = 'a week': Value error, expected a duration such as '7 days' or '90 minutes', found 'a week'",
        ),
        ("confidence = 0.95", "confidence = 95", "flows.flight_delays.gate.confidence = 95: Input should be less"),
        ("dagster_port = 3000", "dagster_port = 70000", "platform.dagster_port = 70000"),
        ('"America/New_York"', '"America/Gotham"', "time_zone = 'America/Gotham': Value error, expected a time zone"),
        ("[platform]", "[platform", "is not valid TOML"),
    ],
)
def test_a_mistake_is_refused_in_words_that_lead_to_it(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A setting that is silently ignored is the worst kind of setting."""
    with pytest.raises(ProjectError) as refused:
        project_with(tmp_path, old, new)
    assert str(tmp_path / "dagster_project.toml") in str(refused.value)
    assert message in str(refused.value)


def test_several_mistakes_are_named_at_once(tmp_path: Path) -> None:
    """Nobody wants to run a command once per typing error."""
    with pytest.raises(ProjectError, match=r"min_row: .*max_row: "):
        project_with(tmp_path, "min_rows = 1000\nmax_rows", "min_row = 1000\nmax_row")


def test_a_flow_that_does_not_exist_is_answered_with_the_nearest() -> None:
    """Every command takes a flow's name, and names are long."""
    with pytest.raises(ProjectError, match=r"no flow named 'flight_delay' in .*: did you mean 'flight_delays'"):
        load_project(ROOT, environment={}).flow("flight_delay")


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("1 day", timedelta(days=1)),
        ("36 hours", timedelta(hours=36)),
        ("90 minutes", timedelta(minutes=90)),
        ("10 seconds", timedelta(seconds=10)),
    ],
)
def test_durations_are_written_in_words(tmp_path: Path, text: str, duration: timedelta) -> None:
    """A bare number would leave its unit to be guessed."""
    read = project_with(tmp_path, 'lookback = "8 days"', f'lookback = "{text}"')
    assert read.flow("flight_delays").data.lookback == duration


def test_what_was_read_cannot_be_changed() -> None:
    """Settings that move after they were read differ between two parts of one process."""
    with pytest.raises(ValueError, match="frozen"):
        load_project(ROOT, environment={}).flow("flight_delays").gate.min_rows = 1  # type: ignore[misc]


def test_every_key_has_a_description() -> None:
    """The description is what the reference and the messages are made of."""
    bare = [
        f"{name}.{key}"
        for name, table in tables().items()
        for key, field in table.model_fields.items()
        if not field.description and key not in {"platform", "flows"} and f"flows.<flow>.{key}" not in tables()
    ]
    assert bare == []


def test_the_reference_documents_exactly_the_keys_that_are_read() -> None:
    """Run `make reference` when this fails: a key was added, renamed or removed."""
    page = (ROOT / "docs" / "project.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))["page"](page) == page


def test_a_duration_is_documented_as_the_file_would_say_it() -> None:
    """A default of a second was told as none of an hour."""
    written = runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))["written"]
    fields = [field for table in tables().values() for field in table.model_fields.values()]
    defaults = {field.default for field in fields if isinstance(field.default, timedelta)}
    read = TypeAdapter(Duration).validate_python
    assert len(defaults) > 5
    assert {default: read(written(default).strip('`"')) for default in defaults} == {each: each for each in defaults}


def test_every_key_is_acted_upon_or_named_as_waiting() -> None:
    """A key that is read and then ignored is a promise broken in silence."""
    rooms = [ROOT / room for room in ("ml_core", "orchestration", "serving")]
    code = "\n".join(file.read_text(encoding="utf-8") for room in rooms for file in room.rglob("*.py"))
    keys = {key for name, table in tables().items() if name not in {"", "flows.<flow>"} for key in table.model_fields}
    ignored = {key for key in keys if not re.search(rf"\.{key}\b", code)}
    page = (ROOT / "docs" / "project.md").read_text(encoding="utf-8")
    waiting = re.search(r"^- Checked when read, but not acted upon yet: (.*)$", page, re.MULTILINE)
    assert ignored == set(re.findall(r"`(\w+)`", waiting[1] if waiting else ""))
