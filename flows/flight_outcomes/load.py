"""The flights of 2013 out of New York and how each ended: early, on time, late or cancelled.

The facts are those of `flows.flight_delays`, with another outcome: 0 more than ten minutes early, 1 on time, 2 more
than 15 minutes late, 3 cancelled. The source does not say when a flight was cancelled; it is taken as known three hours
after the scheduled departure. A diverted flight has no outcome.
"""

from pathlib import Path

import duckdb
import pyarrow as pa

from flows.flight_delays.load import facts as flights

_OUTCOMES = """
    select flight_key, event_time, known_at,
           case when arr_delay < -10 then 0 when arr_delay <= 15 then 1 when arr_delay > 15 then 2 end as outcome
    from landed
    union all
    select flight_key, scheduled_departure + interval 3 hour, scheduled_departure + interval 3 hour, 3
    from scheduled
    anti join departed using (flight_key)
    order by known_at, flight_key
"""


def facts(cache: Path) -> dict[str, pa.Table]:
    """Return the year's facts per kind, each sorted by `known_at`; what is unzipped is kept under `cache`."""
    year = flights(cache)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for name in ("scheduled", "departed", "landed"):
            connection.register(name, year[name])
        outcomes = connection.sql(_OUTCOMES).to_arrow_table()
    return {"scheduled": year["scheduled"], "outcomes": outcomes}
