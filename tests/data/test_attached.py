"""Reading DuckDB files through the instance a process keeps."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from ml_core.data.attached import attached, beside


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files with a table of the same name; the second one's name would end a string in SQL."""
    made = [tmp_path / "one.duckdb", tmp_path / "it's.duckdb"]
    for number, file in enumerate(made):
        with duckdb.connect(str(file)) as connection:
            connection.execute("create table numbers as select $1 as of, range as n from range(10000)", [number])
            connection.execute("create table instants as select timestamptz '2024-05-01 12:00:00+02' as at")
    return made


def test_each_session_sees_the_tables_of_its_own_file(files):
    """Two flows are trained in one process; neither may learn the other's rows."""
    with attached(files[0]) as one, attached(files[1]) as other, beside(one) as again:
        found = [session.sql("select distinct of from numbers").fetchall() for session in (one, other, again)]
    assert found == [[(0,)], [(1,)], [(0,)]]


def test_times_are_told_in_utc_in_whatever_zone_the_machine_stands(files, monkeypatch):
    """An instant that moved by two hours would be another label."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    with attached(files[0]) as session, beside(session) as again:
        told = [opened.sql("from instants").to_arrow_table().column(0)[0].as_py() for opened in (session, again)]
    assert told == [datetime(2024, 5, 1, 10, tzinfo=UTC)] * 2
    assert all(instant.tzname() == "UTC" for instant in told)


def test_a_session_that_ends_lets_the_file_go(files):
    """Also one whose result was read half: the next owner opens the file for writing in this very process."""
    with attached(files[0]) as session, beside(session) as scan:
        scan.sql("from numbers").to_arrow_reader(100).read_next_batch()
    with duckdb.connect(str(files[0])) as owner:
        owner.execute("insert into numbers values (7, -1)")
    with attached(files[0]) as session:
        assert session.sql("select count(*) from numbers").fetchall() == [(10_001,)]


def test_whatever_becomes_of_a_session_its_file_is_let_go(files):
    """A file that stayed attached could be owned by nobody in this process until it ends."""
    with attached(files[0]) as session:
        session.execute("begin")
        with pytest.raises(duckdb.Error, match="no_such_table"):
            session.execute("from no_such_table")
    with pytest.raises(duckdb.Error, match="no_such_table"), attached(files[0]) as session:
        session.execute("from no_such_table")
    with attached(files[0]) as session:
        session.close()
    with attached(files[0]) as session:
        session.execute("from numbers").fetchone()
    with duckdb.connect(str(files[0])) as owner:
        owner.execute("insert into numbers values (7, -1)")


def test_a_foreign_program_is_kept_out_as_long_as_anybody_reads(files):
    """The kernel takes a process's lock away with the first handle that closes; so there may be only one."""
    write = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('insert into numbers values (7, -1)')"
    foreign = [sys.executable, "-c", write, str(files[0])]
    with attached(files[0]) as longer:
        with attached(files[0]):
            pass
        refused = subprocess.run(foreign, capture_output=True, text=True, check=False, timeout=60)
        assert "Could not set lock" in refused.stderr
        assert longer.sql("select count(*) from numbers").fetchall() == [(10_000,)]
    subprocess.run(foreign, check=True, timeout=60)


def test_nothing_is_written_through_a_session(files):
    """Readers share the file; a write would be one that no owner knows of."""
    with attached(files[0]) as session, pytest.raises(duckdb.Error, match="read-only"):
        session.execute("insert into numbers values (7, -1)")


def test_a_file_that_cannot_be_read_leaves_nothing_behind(files, tmp_path):
    """The instance goes on for everybody else."""
    broken = tmp_path / "broken.duckdb"
    broken.write_bytes(b"no database" * 1000)
    for file in (broken, tmp_path / "absent.duckdb"):
        with pytest.raises(duckdb.Error), attached(file):
            raise AssertionError(f"{file} was opened")
    with attached(files[0]) as session:
        assert session.sql("select count(*) from duckdb_databases() where not internal").fetchall() == [(2,)]


def test_threads_read_side_by_side(files):
    """A trainer's reader, a sensor and a card ask at the same time."""

    def asked(number: int) -> int:
        with attached(files[number % 2]) as session:
            return session.sql("select sum(of) from numbers").fetchall()[0][0]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(asked, range(40))) == [0, 10_000] * 20
