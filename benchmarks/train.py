"""`make bench-train`: learning beside Vowpal Wabbit, river and scikit-learn, on the same rows in the same order.

Each comparison runs both sides in turn, three times, and prints the ratio of the medians; the last one trains on
thirty million rows in a process of its own and prints its peak memory. Method and figures: benchmarks/README.md.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

from benchmarks import scoring
from benchmarks.flights import NUMBERS, SCHEMA, STRINGS, wide_flights
from benchmarks.report import Row, bound, more, write
from ml_core.data import examples, words
from ml_core.data.ahead import Batches, ahead, slices
from ml_core.data.attached import attached
from ml_core.learners import FTRLClassifier
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings
from ml_core.training.evaluation import row_log_loss

STAGES = (
    {"stage": "hash", "columns": list(STRINGS), "bits": 18},
    {"stage": "standardise", "columns": list(NUMBERS)},
)
REPEATS = 3
YEARS = 10
RIVER_ROWS = 20_000
LARGE = 30_000_000
_VW_SYNTAX = str.maketrans(" :|", "___")
_LOSS_MARGIN, _GIB = 5.0, 1.5
BATCH_ROWS = 32_768  # as `FeatureStore.example_batches` reads


def main() -> None:
    """Run every comparison and print, and write, the report."""
    rows = wide_flights()
    labels = rows.column("late").to_numpy().astype(np.float64)
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        store, text = Path(folder, "store.duckdb"), Path(folder, "flights.vw")
        write_store(store, rows)
        write_vw(text, rows)
        compared = [*against_vw(store, text, labels), against_river(store, rows, labels), against_sgd(rows, labels)]
        text.unlink()
        compared += [memory(Path(folder), store), *scoring.rows(rows)]
    write("train", compared)


def write_store(file: Path, rows: pa.Table) -> None:
    """Write rows as the feature store keeps them: features as plain strings, examples with codes of a dictionary."""
    count = rows.num_rows
    keyed = pa.table(
        {
            "key": pa.array(map(str, range(count)), pa.string()),
            "request_time": pa.array(np.arange(count) * 1_000_000, pa.timestamp("us", "UTC")),
        }
        | {name: rows.column(name) for name in (*SCHEMA, "late")}
    )
    with duckdb.connect(str(file)) as connection:
        connection.execute("create table features as from keyed")
        coded = words.encode(connection, keyed, STRINGS)  # noqa: F841 - DuckDB finds it by name
        features = ", ".join(SCHEMA)
        connection.execute(
            'create table examples as select row_number() over () - 1 as "offset", request_time as labelled_at, key,'  # noqa: S608 - the names are ours
            f" request_time, late::float as label, {features} from coded"
        )
        connection.execute(
            "create table plain as select * exclude (key, request_time, late), late::float as label from features"
        )
        connection.execute("alter table features drop late")


def stored(file: Path, count: int) -> Iterator[pa.RecordBatch]:
    """Yield the `count` examples as the feature store does, which opens the file for each of its slices."""
    yield from ahead(slices(partial(_slice, file), 0, count))


def _slice(file: Path, first: int, stop: int) -> Batches:
    with attached(file) as connection:
        yield from examples.read(connection, first, stop, named=("labelled_at",), rows=BATCH_ROWS)


def plain(file: Path, _: int) -> Iterator[pa.RecordBatch]:
    """Yield the same rows from columns of plain strings."""
    with attached(file) as connection:
        yield from connection.sql("from plain").to_arrow_reader(BATCH_ROWS)


def learn(batches: Iterator[pa.RecordBatch]) -> np.ndarray:
    """Train a model with its default rates and return the score each row had before it was learned."""
    settings = PipelineSettings(stages=STAGES, estimator={"name": "FTRLClassifier"})
    model = PipelineModel.build(settings, SCHEMA)
    return np.concatenate([scores for _, scores in model.learn_batches(batches)])


def write_vw(file: Path, rows: pa.Table) -> None:
    """Write rows as Vowpal Wabbit reads them; a missing value is left out.

    Its FTRL does not scale what it is given and is lost on raw numbers, so they are standardised for it beforehand, by
    the statistics of all rows. Ours gets them raw and standardises as it goes.
    """
    named = [
        ["" if value is None else f"{name}={value.translate(_VW_SYNTAX)}" for value in rows.column(name).to_pylist()]
        for name in STRINGS
    ]
    numbers = standardised(rows)
    with file.open("w", encoding="utf-8") as out:
        for late, given, *texts in zip(rows.column("late").to_pylist(), numbers, *named, strict=True):
            values = " ".join(f"{name}:{value:.4g}" for name, value in zip(NUMBERS, given, strict=True) if value)
            out.write(f"{1 if late else -1} |c {' '.join(filter(None, texts))} |n {values}\n")


def standardised(rows: pa.Table) -> np.ndarray:
    """Return the numbers by scikit-learn's StandardScaler over all rows, a missing one as 0, (n_rows, n_numbers)."""
    numbers = np.column_stack([rows.column(name).to_numpy() for name in NUMBERS])
    return np.nan_to_num(StandardScaler().fit_transform(numbers))


def vowpal_wabbit(text: Path, *, predictions: Path | None = None) -> None:
    """Learn the file once with Vowpal Wabbit's FTRL and its default rates."""
    from vowpalwabbit import Workspace

    said = {} if predictions is None else {"p": str(predictions)}
    Workspace(data=str(text), ftrl=True, loss_function="logistic", b=18, link="logistic", quiet=True, **said).finish()


def against_vw(store: Path, text: Path, labels: np.ndarray) -> list[Row]:
    """Compare the whole way, from storage to weights, over one year and ten, and the log loss of the one."""
    predictions = text.with_suffix(".said")
    vowpal_wabbit(text, predictions=predictions)
    peer_loss = float(row_log_loss(labels, np.loadtxt(predictions)).mean())
    loss = float(row_log_loss(labels, learn(stored(store, labels.size))).mean())
    made = [bound("prequential log loss less Vowpal Wabbit's", (loss - peer_loss) * 1e4, "1e-4", _LOSS_MARGIN)]
    for years in (1, YEARS):
        long_store, long_text = (file.with_stem(f"{file.stem}-{years}") for file in (store, text))
        lengthen(store, text, long_store, long_text, years)
        rows = labels.size * years
        ours, strings, theirs = medians(
            partial(_learned, stored, long_store, rows), partial(_learned, plain, long_store, rows),
            partial(vowpal_wabbit, long_text),
        )  # fmt: skip
        long_text.unlink()
        per_s, per_s_plain, peer = rows / ours, rows / strings, rows / theirs
        length = "the year" if years == 1 else f"{years} years"
        made += [
            more(f"feature store to weights, {length}, beside Vowpal Wabbit", per_s, peer, "rows/s", at_least=8),
            more(f"plain strings to weights, {length}, beside Vowpal Wabbit", per_s_plain, peer, "rows/s", at_least=3),
            more(f"feature store, {length}, beside the same rows as plain strings", per_s, per_s_plain, "rows/s"),
        ]
    return made


def _learned(read: Callable[[Path, int], Iterator[pa.RecordBatch]], file: Path, rows: int) -> None:
    learn(read(file, rows))


def lengthen(store: Path, text: Path, long_store: Path, long_text: Path, years: int) -> None:
    """Write both sides' rows so many times over."""
    with duckdb.connect(str(long_store)) as connection:
        connection.execute(f"attach '{store}' as year (read_only)")
        connection.execute("create table words as from year.words")
        connection.execute("create table features as from year.features limit 0")
        count = connection.execute("select count(*) from year.examples").fetchall()[0][0]
        connection.execute("create table examples as from year.examples limit 0")
        connection.execute("create table plain as from year.plain limit 0")
        for year in range(years):
            connection.execute(
                'insert into examples select * replace ("offset" + $first as "offset") from year.examples',
                {"first": count * year},
            )
            connection.execute("insert into plain from year.plain")
    content = text.read_bytes()
    with long_text.open("wb") as out:
        for _ in range(years):
            out.write(content)


def against_river(store: Path, rows: pa.Table, labels: np.ndarray) -> Row:
    """Compare with river's FTRL, which is given its dicts ready made; on its first rows only, as it takes so long."""
    from river import linear_model, optim

    few = [
        {f"{name}={value}" if isinstance(value, str) else name: 1.0 if isinstance(value, str) else value
         for name, value in row.items() if name != "late" and value is not None}
        for row in rows.slice(0, RIVER_ROWS).to_pylist()
    ]  # fmt: skip
    truth = [bool(label) for label in labels[:RIVER_ROWS]]

    def theirs() -> None:
        model = linear_model.LogisticRegression(optim.FTRLProximal())
        for row, label in zip(few, truth, strict=True):
            model.learn_one(row, label)

    ours, seconds = medians(lambda: learn(stored(store, labels.size)), theirs)
    return more(
        "feature store to weights, beside river", labels.size / ours, RIVER_ROWS / seconds, "rows/s", at_least=100
    )


def against_sgd(rows: pa.Table, labels: np.ndarray) -> Row:
    """Compare the kernels alone: CSR arrays ready made by scikit-learn's hasher, one pass."""
    named = {name: rows.column(name).to_pylist() for name in STRINGS}
    words_of = [[f"{name}={value}" for name, value in zip(named, row, strict=True)]
                for row in zip(*named.values(), strict=True)]  # fmt: skip
    hashed = FeatureHasher(2**18, input_type="string", alternate_sign=False).transform(words_of)
    matrix = sparse.csr_matrix(sparse.hstack([hashed, standardised(rows)]))
    classes = np.array([0.0, 1.0])
    ours, theirs = medians(lambda: FTRLClassifier().partial_fit(matrix, labels, classes),
                           lambda: SGDClassifier(loss="log_loss").partial_fit(matrix, labels, classes))  # fmt: skip
    return more(
        "partial_fit on CSR, beside SGDClassifier", labels.size / ours, labels.size / theirs, "rows/s", at_least=2
    )


def memory(folder: Path, store: Path) -> Row:
    """Train thirty million rows, the year over and over with noise, in a process of its own."""
    large = folder / "large.duckdb"
    with duckdb.connect(str(large)) as connection:
        connection.execute(f"attach '{store}' as year (read_only)")
        connection.execute("create table words as from year.words")
        connection.execute("create table features as from year.features limit 0")
        connection.execute("set threads = 2")
        noisy = ", ".join(f"({name} * (1 + 0.02 * random()))::float as {name}" for name in NUMBERS)
        year = connection.execute("select count(*) from year.examples").fetchall()[0][0]
        repeats = itertools.count(1)
        query = f'select * replace ("offset" + $base as "offset", {noisy}) from year.examples limit $rest'  # noqa: S608
        connection.execute(f"create table examples as {query}", {"base": 0, "rest": year})
        for repeat in repeats:
            if (done := repeat * year) >= LARGE:
                break
            connection.execute(f"insert into examples {query}", {"base": done, "rest": min(year, LARGE - done)})
    command = [sys.executable, "-m", "benchmarks.train_large", str(large), str(LARGE)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)
    if told["rows"] != LARGE:
        raise SystemExit(f"expected {LARGE} rows to be learned, found {told['rows']}")
    gib = told["peak_bytes"] / 2**30
    print(f"thirty million rows took {told['seconds']:.1f} s")
    return bound("peak memory of training thirty million rows", gib, "GiB", _GIB)


def medians(*sides: Callable[[], object]) -> list[float]:
    """Return each side's median seconds over rounds in which all of them take their turn, after one to warm up."""
    taken: list[list[float]] = [[] for _ in sides]
    for round_ in range(REPEATS + 1):
        for side, seconds in zip(sides, taken, strict=True):
            started = time.perf_counter()
            side()
            if round_:
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


if __name__ == "__main__":
    main()
