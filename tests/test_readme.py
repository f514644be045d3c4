"""The README's commands are run, its links lead somewhere, and its diagram names what exists."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_core.data.replay import Replay, load_facts
from ml_core.data.store import FeatureStore
from ml_core.project import load_project
from orchestration.cli import main
from orchestration.processes import Supervisor, answers, free_port
from tests.registries import empty_registry

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)(?P<target>[^)#]+)")
PYTHON = Path(sys.executable)


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in one language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block["text"] for block in BLOCK.finditer(text) if block["language"] == language]


def commands(first: str) -> list[str]:
    """Return the README's commands that start with a word."""
    return [line for block in blocks("console") for line in block.splitlines() if line.split()[0] == first]


def run(*command: str | Path, home: Path | None = None) -> str:
    """Run a command in the project; return what it printed, fail when it fails."""
    environment = os.environ | ({"MODELFLOW_HOME": str(home)} if home else {})
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # this may itself run under make
        environment.pop(name, None)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Return what carries a `modelflow` command out in this process, for starting one costs seconds each time."""

    def ask(command: str) -> str:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert ended.value.code == 0, out + err
        return out

    return ask


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose feature table holds the year's first days."""
    place = tmp_path_factory.mktemp("readme")
    flow = load_project(ROOT).flow("flight_delays")
    store = FeatureStore(flow, root=ROOT, home=place)
    Replay(load_facts(flow, place)).ingest(store.log, datetime(2013, 1, 6, tzinfo=UTC))
    store.absorb()
    empty_registry(place / "mlflow" / "mlflow.db")
    return place


@pytest.fixture(scope="module")
def sidecar(home: Path) -> Iterator[str]:
    """Start a sidecar that has no model yet; return its address."""
    port = free_port()
    nowhere = ["models:/flight_delays/Production", "--tracking-uri", "http://127.0.0.1:9", "--port", str(port)]
    with Supervisor(home) as supervisor:
        supervisor.start("sidecar", [str(PYTHON), "-m", "serving", *nowhere])
        supervisor.wait_until("sidecar", lambda: answers(port, "/v2/health/live"))
        yield f"http://127.0.0.1:{port}"


def test_every_command_is_run_by_one_of_the_tests_below() -> None:
    """A command nobody runs is the first to be wrong."""
    known = {*commands("make"), *commands(".venv/bin/modelflow"), *commands("curl")}
    assert {line for block in blocks("console") for line in block.splitlines()} == known


@pytest.mark.parametrize("command", commands("make"))
def test_the_make_targets_exist(command: str) -> None:
    """What `make demo` and `make up` do is tested in tests/orchestration; here, that make knows how to start them."""
    assert run(*shlex.split(command), "--dry-run")


def test_make_alone_lists_every_target() -> None:
    """It is how people find out what can be done."""
    targets = re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    listed = [line.split()[1] for line in run("make").splitlines()]
    assert listed == targets


def makes_a_flow(command: str) -> bool:
    """Whether a command belongs to the three that make a flow of one's own."""
    return shlex.split(command)[1] in {"new", "check", "run"}


def test_the_three_commands_make_a_flow_of_a_table(
    asked: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are run one after the other in an empty folder that holds the table the README speaks of."""
    start = datetime(2024, 3, 1, tzinfo=UTC)
    rows = [
        f"{start + timedelta(minutes=30 * number):%Y-%m-%d %H:%M},{'north' if number % 3 else 'south'},"
        f"{number % 7},{'yes' if number % 3 and number % 7 > 2 else 'no'}"
        for number in range(1_500)
    ]
    (tmp_path / "orders.csv").write_text("ordered_at,shop,items,late\n" + "\n".join(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MODELFLOW")]:
        monkeypatch.delenv(name)
    told = [asked(command) for command in filter(makes_a_flow, commands(".venv/bin/modelflow"))]
    assert "it is in Production" in told[-1]


def test_modelflow_is_a_program(home: Path) -> None:
    """The others ask in this process; here, that the commands are found under the name that is typed."""
    assert "versions" in run(PYTHON.with_name("modelflow"), "--help", home=home)


@pytest.mark.parametrize("command", [line for line in commands(".venv/bin/modelflow") if not makes_a_flow(line)])
def test_the_modelflow_commands_answer(
    asked: Callable[[str], str], command: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the first thing somebody types after the demo."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MODELFLOW_HOME", str(home))
    assert asked(command)


@pytest.mark.parametrize("command", commands("curl"))
def test_the_sidecar_knows_the_addresses(command: str, sidecar: str) -> None:
    """Before the first version an address may answer "not ready", never "not found"."""
    _, *options, address = shlex.split(command)
    told = dict(zip(options[::2], options[1::2], strict=True))
    headers = dict(told[name].split(": ") for name in ("-H",) if name in told)
    body = (ROOT / told["-d"].removeprefix("@")).read_bytes() if "-d" in told else None
    request = urllib.request.Request(address.replace("http://127.0.0.1:8080", sidecar), body, headers)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            status = answer.status
    except urllib.error.HTTPError as refused:
        status = refused.code
    assert status in {200, 503}


def test_the_sample_request_holds_what_the_flow_takes(
    asked: Callable[[str], str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body to try things with is a feature row, without what names it."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MODELFLOW_HOME", str(home))
    told = asked(".venv/bin/modelflow features flight_delays --at 2013-01-05T12:00+00:00 --json").splitlines()[-1]
    (record,) = json.loads((ROOT / "flows/flight_delays/sample_request.json").read_text("utf-8"))["dataframe_records"]
    assert list(record) == [name for name in json.loads(told) if name not in {"key", "request_time"}]


def test_the_default_port_of_the_sidecar_is_the_one_shown() -> None:
    """The addresses above are only right while nobody changes the shipped setting."""
    assert load_project(ROOT).platform.sidecar_port == 8080


@pytest.mark.parametrize("text", blocks("python"))
def test_the_python_examples_are_python(text: str) -> None:
    """They are copied by hand into somebody else's code."""
    compile(text, "README.md", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_picture_is_there(page: Path) -> None:
    """A page with a hole in it says that nobody reads it."""
    targets = {match["target"] for match in LINK.finditer(page.read_text(encoding="utf-8"))} - {"NNNN-name.md"}
    assert [target for target in targets if not (page.parent / target).exists()] == []
