"""The prediction log holds what was asked and answered, within its bounds, and never costs an answer."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.follower import Follower
from serving.http import Sidecar
from serving.log import LogSettings, PredictionLog
from serving.settings import Limits
from serving.wire import columns_read
from tests.serving.asking import OTHER, ROW, ask_application

BODIES: dict[str, Any] = {
    "records": {"dataframe_records": [ROW, OTHER]},
    "split": {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values()), list(OTHER.values())]}},
    "columns": {"inputs": {name: [ROW[name], OTHER[name]] for name in ROW}},
}


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("*.parquet")))


@pytest.mark.parametrize("shape", BODIES)
def test_what_is_logged_is_what_was_asked_and_answered(follower: Follower, tmp_path: Path, shape: str) -> None:
    """Scored again from the log, a row gets the score its caller got."""
    application = Sidecar(follower, log=PredictionLog(LogSettings(tmp_path)))
    headers = {"content-type": "application/json", "x-request-id": "mine"}
    _, told, answer = ask_application(application, "/invocations", BODIES[shape], headers=headers)
    _, other, single = ask_application(application, "/invocations", {"dataframe_records": [ROW]})
    application.close()
    logged = read(tmp_path).sort_by([("at", "ascending"), ("row", "ascending")]).to_pylist()
    assert [(row["request_id"], row["row"]) for row in logged] == [("mine", 0), ("mine", 1), (other["x-request-id"], 0)]
    assert told["x-request-id"] == "mine"
    assert {row["version"] for row in logged} == {7}
    assert [row["score"] for row in logged] == [*answer["predictions"], *single["predictions"]]
    assert logged[0]["features"] == {"carrier": "UA", "origin": "EWR", "delay": 12.5, "hour": 7.0}
    assert logged[1]["features"]["carrier"] == ""
    assert np.isnan(logged[1]["features"]["delay"])
    assert follower.current is not None
    again = follower.current.score(follower.current.rows.records([row["features"] for row in logged]))
    assert again.tolist() == [row["score"] for row in logged]


def test_refused_requests_are_not_logged_and_answers_do_not_wait(follower: Follower, tmp_path: Path) -> None:
    """A log of mistakes would be somebody's way to fill the disk."""
    log = PredictionLog(LogSettings(tmp_path / "log"))
    application = Sidecar(follower, log=log)
    assert ask_application(application, "/invocations", {"dataframe_records": [{**ROW, "delay": "x"}]})[0] == 400
    application.close()
    assert list((tmp_path / "log").iterdir()) == []
    assert (log.written, log.dropped) == (0, 0)


def test_rows_beyond_the_queue_are_dropped_and_counted(follower: Follower, tmp_path: Path) -> None:
    """A log that cannot keep up must not grow into the memory of the predictor."""
    log = PredictionLog(LogSettings(tmp_path, queue_rows=3))
    application = Sidecar(follower, log=log)
    for _ in range(4):
        assert ask_application(application, "/invocations", BODIES["records"])[0] == 200
    assert log.dropped == 6
    application.close()
    assert log.written == 2
    assert 'modelflow_log_rows_total{end="dropped"} 6.0' in ask_application(application, "/metrics")[2].decode()


def test_the_oldest_files_go_when_the_folder_is_full(follower: Follower, tmp_path: Path) -> None:
    """A folder that nobody looks at must not fill the disk."""
    (tmp_path / "note.txt").write_text("not ours")
    kept = []
    for _ in range(4):
        application = Sidecar(follower, log=PredictionLog(LogSettings(tmp_path, most_bytes=7000)))
        ask_application(application, "/invocations", BODIES["records"])
        application.close()
        kept.append(sorted(tmp_path.glob("*.parquet")))
    assert 0 < len(kept[-1]) < 4
    assert kept[-1] == sorted({file for files in kept for file in files})[-len(kept[-1]) :]
    assert (tmp_path / "note.txt").exists()


def test_a_disk_that_fails_costs_rows_and_no_answer(
    follower: Follower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the log is the first to be full."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    log = PredictionLog(LogSettings(tmp_path / "log"))
    application = Sidecar(follower, log=log)
    assert ask_application(application, "/invocations", BODIES["records"])[0] == 200
    application.close()
    assert (log.written, log.dropped) == (0, 2)
    assert list((tmp_path / "log").iterdir()) == []


class Scores(list[float]):
    """Scores that let another thread in whenever they are counted: at the worst moment, every time."""

    meanwhile: Any = staticmethod(lambda: None)

    def __len__(self) -> int:
        then, self.meanwhile = self.meanwhile, lambda: None
        then()
        return super().__len__()


def test_the_rows_that_wait_are_counted_exactly(
    follower: Follower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count that drifts ends with a log that drops every row, or with one that knows no bound."""
    log = PredictionLog(LogSettings(tmp_path, file_s=600))
    monkeypatch.setattr(log, "_write", lambda _: None)
    monkeypatch.setattr("serving.log.groupby", lambda *_, **__: [])

    def add(*, counted: int, meanwhile: Any) -> None:
        """Log a row; something else happens when it is counted for the so-manieth time."""
        scores = Scores([0.5])
        steps = iter([*[lambda: None] * counted, meanwhile])

        def step() -> None:
            next(steps, lambda: None)()
            scores.meanwhile = step

        scores.meanwhile = step
        log.add(follower.current, columns_read({}), scores, "id")  # type: ignore[arg-type]

    for counted in range(4):
        add(counted=99, meanwhile=None)
        add(counted=counted, meanwhile=log._write_waiting)  # the thread that writes comes in while a row is added
        log._write_waiting()
        assert (len(log._waiting), log._rows_waiting) == (0, 0)
        # and a row is added while those written are taken off
        add(counted=counted, meanwhile=lambda: add(counted=99, meanwhile=None))
        log._write_waiting()
        log._write_waiting()
        assert (len(log._waiting), log._rows_waiting) == (0, 0)
    log.close()


def test_a_file_that_another_worker_removed_first_costs_no_rows(
    follower: Follower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that share a folder all keep it within its bound; what was written is not dropped."""
    old = tmp_path / "20200101T000000000000-v7-1-0.parquet"
    old.write_bytes(b"x")
    stat = Path.stat

    def raced(path: Path, **options: Any) -> Any:
        found = stat(path, **options)
        if path == old:
            old.unlink()
        return found

    log = PredictionLog(LogSettings(tmp_path))
    application = Sidecar(follower, log=log)
    ask_application(application, "/invocations", BODIES["records"])
    monkeypatch.setattr(Path, "stat", raced)
    application.close()
    assert (log.written, log.dropped) == (2, 0)
    assert not old.exists()


def test_a_folder_that_cannot_be_trimmed_costs_no_rows(
    follower: Follower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is on the disk is written, whatever becomes of older files."""

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, os.strerror(13))

    log = PredictionLog(LogSettings(tmp_path, most_bytes=1))
    application = Sidecar(follower, log=log)
    ask_application(application, "/invocations", BODIES["records"])
    monkeypatch.setattr(log, "_remove_oldest", refused)
    application.close()
    assert (log.written, log.dropped) == (2, 0)
    assert "could not be kept within 1 bytes" in caplog.text


def test_a_share_of_the_requests_is_logged_whole(follower: Follower, tmp_path: Path) -> None:
    """Half a batch would look like a request of its own."""
    application = Sidecar(follower, log=PredictionLog(LogSettings(tmp_path, share=0.5)))
    for _ in range(200):
        ask_application(application, "/invocations", BODIES["records"])
    application.close()
    requests = read(tmp_path).column("request_id").to_pylist()
    assert 40 < len(set(requests)) < 160
    assert all(requests.count(each) == 2 for each in set(requests))


def test_the_process_writes_its_log_before_it_ends(sidecar: Any, rest_registry: Any, tmp_path: Path) -> None:
    """TERM is how it ends every day; a large body takes another way and is logged, too."""
    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    log = tmp_path / "log"
    running = sidecar("models:/f/Production", rest_registry.uri, "--log", str(log))
    running.wait_version(1)
    many = Limits().inline_bytes // 60
    body = json.dumps({"dataframe_records": [ROW] * many}).encode()
    assert len(body) > Limits().inline_bytes
    assert running.request("POST", "/invocations", body)[0] == 200
    assert running.terminate() == 0
    assert read(log).num_rows == many
