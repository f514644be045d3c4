-- The features of a flight as of its scheduled departure.
--
-- `requests` holds the flights asked about, with their `request_time`; `scheduled`, `departed`, `landed` and `weather`
-- hold the facts. Every join to a fact demands `known_at <= request_time`, so nothing is known before it is known,
-- and reaches back a fixed time, so a row is the same whether the table grows or is rebuilt. Averages are over whole
-- minutes, so their sums are exact in any order. Joins go by hour or by day, so that each request meets the facts of
-- its own window only.
with
hours as (  -- each request beside the hours its short windows touch
    select requests.* exclude (known_at), epoch_us(request_time) // 3600000000 - unnest(range(5)) as known_hour
    from requests
),
days as (  -- and beside the days its long windows touch
    select requests.* exclude (known_at), epoch_us(request_time) // 86400000000 - unnest(range(8)) as known_day
    from requests
),
-- How the origin ran over the last three hours, and the carrier at it.
at_origin as (
    select
        hours.flight_key,
        avg(dep_delay) filter (known_at > request_time - interval 1 hour) as delay_1h,
        avg(dep_delay) as delay_3h,
        avg((dep_delay > 15)::integer) as late_share_3h,
        count(*) filter (known_at > request_time - interval 1 hour) as departures_1h,
        avg(dep_delay) filter (departed.carrier = hours.carrier) as carrier_delay_3h
    from hours
    join departed
        on hours.origin = departed.origin and hours.known_hour = epoch_us(departed.known_at) // 3600000000
    where departed.known_at <= request_time and departed.known_at > request_time - interval 3 hour
    group by all
),
-- How arrivals went everywhere over the last four hours, for the carrier, and at the destination.
arrivals as (
    select
        hours.flight_key,
        avg(arr_delay) filter (landed.known_at > request_time - interval 2 hour) as delay_2h,
        avg((arr_delay > 15)::integer) filter (landed.known_at > request_time - interval 2 hour) as late_share_2h,
        avg(arr_delay) filter (landed.carrier = hours.carrier) as carrier_delay_4h,
        avg(arr_delay) filter (landed.dest = hours.dest) as dest_delay_4h
    from hours
    join landed on hours.known_hour = epoch_us(landed.known_at) // 3600000000
    where landed.known_at <= request_time and landed.known_at > request_time - interval 4 hour
    group by all
),
-- Flights of the origin past their scheduled departure, by up to four hours, that have not left yet.
queue as (
    select
        hours.flight_key,
        count(*) as overdue,
        avg(date_diff('minute', waiting.scheduled_departure, request_time)) as overdue_minutes,
        count(*) filter (waiting.carrier = hours.carrier) as carrier_overdue
    from hours
    join scheduled as waiting
        on hours.origin = waiting.origin and hours.known_hour = epoch_us(waiting.scheduled_departure) // 3600000000
    left join departed on waiting.flight_key = departed.flight_key
    where waiting.scheduled_departure < request_time
      and waiting.scheduled_departure > request_time - interval 4 hour
      and waiting.known_at <= request_time
      and coalesce(departed.known_at > request_time, true)
    group by all
),
-- How the route, and the flight number on it, arrived over the last week.
route as (
    select
        days.flight_key,
        avg(arr_delay) as delay_7d,
        avg(arr_delay) filter (landed.flight = days.flight and landed.carrier = days.carrier) as flight_delay_7d,
        avg((arr_delay > 15)::integer) filter (landed.flight = days.flight and landed.carrier = days.carrier)
            as flight_late_share_7d
    from days
    join landed
        on days.origin = landed.origin and days.dest = landed.dest
        and days.known_day = epoch_us(landed.known_at) // 86400000000
    where landed.known_at <= request_time and landed.known_at > request_time - interval 7 day
    group by all
),
-- What the aircraft did before this flight, over the last day: its last departure and its last arrival.
movements as (
    select flight_key, tailnum, known_at, dep_delay as left_late, null::integer as came_late from departed
    union all
    select flight_key, tailnum, known_at, null, arr_delay from landed where arr_delay is not null
),
aircraft as (
    select
        days.flight_key,
        -- the key of the largest is unique but for equal instants, where the larger delay counts
        max({moment: movements.known_at, late: left_late}) filter (left_late is not null) as departure,
        max({moment: movements.known_at, late: came_late}) filter (came_late is not null) as arrival
    from days
    join movements
        on days.tailnum = movements.tailnum and days.known_day = epoch_us(movements.known_at) // 86400000000
        and days.flight_key <> movements.flight_key
    where movements.known_at <= request_time and movements.known_at > request_time - interval 1 day
    group by all
),
-- Departures planned at the origin in the hour of the request.
due as (
    select hours.flight_key, count(*) as flights, count(*) filter (planned.carrier = hours.carrier) as carrier_flights
    from hours
    join scheduled as planned
        on hours.origin = planned.origin and hours.known_hour = epoch_us(planned.scheduled_departure) // 3600000000
    where hours.known_hour = epoch_us(request_time) // 3600000000 and planned.known_at <= request_time
    group by all
),
-- The weather last read at the origin, unless that was more than six hours ago.
sky as (
    select requests.flight_key, temp, humid, wind_speed, wind_gust, wind_dir, precip, pressure, visib
    from requests
    asof join weather on requests.origin = weather.origin and requests.request_time >= weather.known_at
    where weather.known_at > request_time - interval 6 hour
)
select
    requests.flight_key as key,
    requests.request_time,
    -- who flies what, where and when
    requests.carrier,
    requests.origin,
    requests.dest,
    requests.origin || '-' || requests.dest as route,
    requests.tailnum,
    requests.carrier || requests.flight as flight,
    coalesce(requests.model, '') as model,
    coalesce(requests.manufacturer, '') as manufacturer,
    extract(hour from requests.scheduled_departure at time zone 'America/New_York')::varchar as hour,
    dayname(requests.scheduled_departure at time zone 'America/New_York') as weekday,
    requests.distance::float as distance,
    date_diff('minute', requests.scheduled_departure, requests.scheduled_arrival)::float as scheduled_minutes,
    requests.built::float as aircraft_built,
    requests.seats::float as seats,
    -- how the origin runs
    at_origin.delay_1h::float as origin_delay_1h,
    at_origin.delay_3h::float as origin_delay_3h,
    at_origin.late_share_3h::float as origin_late_share_3h,
    coalesce(at_origin.departures_1h, 0)::float as origin_departures_1h,
    at_origin.carrier_delay_3h::float as carrier_origin_delay_3h,
    coalesce(queue.overdue, 0)::float as origin_overdue,
    queue.overdue_minutes::float as origin_overdue_minutes,
    coalesce(queue.carrier_overdue, 0)::float as carrier_overdue,
    coalesce(due.flights, 0)::float as departures_due,
    coalesce(due.carrier_flights, 0)::float as carrier_departures_due,
    -- how the whole system, the carrier and the destination run
    arrivals.delay_2h::float as arrival_delay_2h,
    arrivals.late_share_2h::float as arrival_late_share_2h,
    arrivals.carrier_delay_4h::float as carrier_arrival_delay_4h,
    arrivals.dest_delay_4h::float as dest_arrival_delay_4h,
    -- how this route and this flight number arrived lately
    route.delay_7d::float as route_delay_7d,
    route.flight_delay_7d::float as flight_delay_7d,
    route.flight_late_share_7d::float as flight_late_share_7d,
    -- the aircraft: how late it last left and came in, how long ago, and whether it is still on its way here
    aircraft.departure.late::float as aircraft_departure_delay,
    date_diff('minute', aircraft.departure.moment, requests.request_time)::float as aircraft_left_minutes_ago,
    aircraft.arrival.late::float as aircraft_arrival_delay,
    date_diff('minute', aircraft.arrival.moment, requests.request_time)::float as aircraft_turnaround_minutes,
    coalesce(aircraft.departure.moment > coalesce(aircraft.arrival.moment, '-infinity'::timestamptz), false)::integer::float
        as aircraft_in_the_air,
    -- more than half of all flights leave before their scheduled departure, and then that is known by now
    date_diff('minute', own.known_at, requests.request_time)::float as left_early_minutes,
    -- the weather
    sky.temp::float as temperature,
    sky.humid::float as humidity,
    sky.wind_speed::float as wind_speed,
    sky.wind_gust::float as wind_gust,
    sky.wind_dir::float as wind_direction,
    sky.precip::float as precipitation,
    sky.pressure::float as pressure,
    sky.visib::float as visibility
from requests
left join at_origin on requests.flight_key = at_origin.flight_key
left join arrivals on requests.flight_key = arrivals.flight_key
left join queue on requests.flight_key = queue.flight_key
left join route on requests.flight_key = route.flight_key
left join aircraft on requests.flight_key = aircraft.flight_key
left join due on requests.flight_key = due.flight_key
left join departed as own on requests.flight_key = own.flight_key and own.known_at <= requests.request_time
left join sky on requests.flight_key = sky.flight_key
