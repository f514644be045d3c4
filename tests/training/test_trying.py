"""`modelflow check`: the first thing that does not hold is named with flow, file, line and key."""

import re
from pathlib import Path

import pytest

from ml_core.errors import ModelFlowError
from ml_core.project import load_project
from ml_core.training.trying import Step, try_flow
from tests.data.test_new import new, options
from tests.data.unseen import Unseen, unseen


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Unseen:
    folder = tmp_path_factory.mktemp("made")
    table = unseen(folder, seed=3, rows=900)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        new("shop", *options(table))
    return table


@pytest.fixture
def project(made: Unseen, tmp_path: Path) -> Path:
    """Return a copy of the project that a test may break."""
    for file in made.path.parent.rglob("*"):
        target = tmp_path / file.relative_to(made.path.parent)
        if file.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return tmp_path


def change(file: Path, old: str, new_text: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new_text, 1), encoding="utf-8")


def tried(root: Path) -> list[Step]:
    project = load_project(root, environment={})
    return list(try_flow(project, project.flow("shop"), rows=500))


def test_a_new_flow_holds_from_the_source_to_the_verified_package(project: Path) -> None:
    """All of it is the code that the platform runs."""
    steps = tried(project)
    assert [step.name for step in steps] == [
        "source", "features", "point in time", "labels", "training", "package", "sample request"
    ]  # fmt: skip
    assert [step.name for step in steps if step.warning] == []
    assert not (project / "var").exists(), "nothing may be kept"


@pytest.mark.parametrize(
    ("file", "old", "new_text", "message"),
    [
        (
            "dagster_project.toml",
            "label_window",
            "label_windw",
            r"label_windw: did you mean 'label_window'\? \(line \d+\)",
        ),
        (
            "dagster_project.toml",
            'stage = "hash"',
            'stage = "hsh"',
            r"flow shop: .*toml, line \d+: pipeline stage 'hsh' does not",
        ),
        (
            "dagster_project.toml",
            "[flows.shop.gate]",
            "[flows.shop.gate",
            "dagster_project.toml is not valid TOML: .*line",
        ),
        ("features.sql", "from requests", "from request", r"flows/shop/features.sql, line \d+: .*request"),
        ("features.sql", "dayname(", "daynam(", r"features.sql, line \d+: .*daynam"),
        (
            "features.sql",
            "as hour",
            "as hours",
            r"flow shop: .*dagster_project.toml, line \d+: pipeline stage 'hash': no feature 'hour'",
        ),
        ("features.sql", "from requests", "from requests join requested on true", "expected one row for each of"),
        (
            "features.sql",
            "dayname(",
            "(select max(outcome.known_at)::varchar from outcome) || dayname(",
            r"feature 'weekday' of key .* is .* when it is built as facts come in, and .* when all facts are there",
        ),
        ("features.sql", "::varchar as hour", "::integer as hour", "expected feature 'hour' as VARCHAR or FLOAT"),
    ],
)
def test_a_mistake_is_named_with_the_place_to_go_to(
    project: Path, file: str, old: str, new_text: str, message: str
) -> None:
    """The minutes between a mistake and its message are what people remember of a platform."""
    change(next(project.rglob(file)), old, new_text)
    with pytest.raises(ModelFlowError) as found:
        tried(project)
    assert re.search(message, str(found.value), re.DOTALL), str(found.value)


def test_labels_of_one_kind_only_are_refused(project: Path, made: Unseen) -> None:
    """A flow that learns them says the same of everything, and would be promoted for it."""
    data = project / made.path.name
    data.write_text(data.read_text(encoding="utf-8").replace(made.texts[1], made.texts[0]), encoding="utf-8")
    with pytest.raises(ModelFlowError, match="flow shop: expected labels of at least two values in the sample"):
        tried(project)


def test_a_sample_request_that_fell_behind_is_a_warning(project: Path) -> None:
    """It is documentation: the flow itself is fine."""
    change(next(project.rglob("sample_request.json")), '"weekday"', '"day"')
    (step,) = [step for step in tried(project) if step.warning]
    assert "lacks ['weekday'] and has ['day']" in step.found
