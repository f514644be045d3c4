"""The embedded predictor: scores in process, follows in the background, never waits for the follower."""

import threading
import time
from typing import Any

import pyarrow as pa
import pytest

from ml_core.errors import InputError, NotReadyError, ProjectError
from serving import LocalPredictor, Prediction

ROW: dict[str, Any] = {"carrier": "UA", "origin": "EWR", "delay": 12.5, "hour": 7}
ADDRESS = "models:/f/Production"


def test_a_row_gets_a_score_and_the_version_that_gave_it(rest_registry: Any) -> None:
    """Which model said so is the first question after every surprise."""
    rest_registry.folder.add(3)
    rest_registry.folder.promote(3)
    with LocalPredictor(ADDRESS, tracking_uri=rest_registry.uri) as predictor:
        prediction = predictor.predict(ROW)
        assert isinstance(prediction, Prediction)
        assert (round(prediction.score, 3), prediction.version, predictor.version) == (0.03, 3, 3)
        assert predictor.signature == {"carrier": "string", "origin": "string", "delay": "float", "hour": "float"}


def test_batches_in_every_form_get_the_scores_of_their_rows(rest_registry: Any) -> None:
    """What is convenient for the caller must not change the answer."""
    rest_registry.folder.add(3)
    rest_registry.folder.promote(3)
    rows = [ROW, {**ROW, "carrier": None, "delay": None}, {**ROW, "origin": "☃"}]
    with LocalPredictor(ADDRESS, tracking_uri=rest_registry.uri) as predictor:
        expected = [predictor.predict(row).score for row in rows]
        table = pa.Table.from_pylist(rows)
        forms: list[Any] = [rows, {name: [row[name] for row in rows] for name in ROW}, table, table.to_batches()[0]]
        for form in forms:
            answer = predictor.predict_batch(form)
            assert answer.scores.tolist() == expected
            assert answer.version == 3
        with pytest.raises(InputError, match="expected rows, columns or an Arrow table"):
            predictor.predict_batch("UA")  # type: ignore[arg-type]  # the mistake under test


def test_a_surrogate_in_a_string_is_refused(rest_registry: Any) -> None:
    """It has no UTF-8, so no trainer can have seen it."""
    rest_registry.folder.add(3)
    rest_registry.folder.promote(3)
    with (
        LocalPredictor(ADDRESS, tracking_uri=rest_registry.uri) as predictor,
        pytest.raises(InputError, match="Unicode"),
    ):
        predictor.predict({**ROW, "carrier": "\ud800"})


def test_a_nul_in_a_string_is_part_of_it(rest_registry: Any) -> None:
    """A graph that stopped reading at the NUL would give another row's score."""
    rest_registry.folder.add(3)
    rest_registry.folder.promote(3)
    with LocalPredictor(ADDRESS, tracking_uri=rest_registry.uri) as predictor:
        scores = {predictor.predict({**ROW, "carrier": text}).score for text in ("UA", "UA\0", "UA\0x")}
    assert len(scores) == 3


def test_many_threads_see_every_swap_and_no_mixture(rest_registry: Any) -> None:
    """The predictor lies inside a web server with a thread pool; swaps happen in the middle of batches."""
    folder = rest_registry.folder
    folder.add(1)
    folder.promote(1)
    seen: set[int] = set()
    faults: list[str] = []
    finished = threading.Event()
    with LocalPredictor(ADDRESS, tracking_uri=rest_registry.uri, poll_interval_s=0.02) as predictor:

        def ask() -> None:
            while not finished.is_set():
                answer = predictor.predict_batch([ROW] * 5)
                seen.add(answer.version)
                if {round(float(score) * 100) for score in answer.scores} != {answer.version}:
                    faults.append(f"{answer}")

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        for version in range(2, 8):
            folder.add(version)
            folder.promote(version)
            while version not in seen and time.monotonic() < deadline:
                time.sleep(0.005)
        finished.set()
        for thread in threads:
            thread.join(5)
    assert seen == set(range(1, 8))
    assert faults == []


def test_a_pinned_version_stays_while_the_flow_moves_on(rest_registry: Any) -> None:
    """The frozen line of a comparison must stay frozen."""
    folder = rest_registry.folder
    for version in (1, 2):
        folder.add(version)
    folder.promote(2)
    with (
        LocalPredictor("models:/f/1", tracking_uri=rest_registry.uri) as frozen,
        LocalPredictor(ADDRESS, tracking_uri=rest_registry.uri) as live,
    ):
        assert (frozen.predict(ROW).version, live.predict(ROW).version) == (1, 2)


def test_nothing_to_serve_is_an_error_that_says_why(rest_registry: Any, free_port: int) -> None:
    """A constructor that returned a predictor without a model would fail at the first row, far from the cause."""
    with pytest.raises(NotReadyError, match="no version in Production"):
        LocalPredictor(ADDRESS, tracking_uri=rest_registry.uri)
    with pytest.raises(NotReadyError, match=f"{free_port}"):
        LocalPredictor(ADDRESS, tracking_uri=f"http://127.0.0.1:{free_port}")
    with pytest.raises(ProjectError, match="models:/<flow>"):
        LocalPredictor("f/Production", tracking_uri=rest_registry.uri)
