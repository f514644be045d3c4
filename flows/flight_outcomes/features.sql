-- The features of a flight as of its scheduled departure: names above all, thousands of them, and how they fared lately.
with
days as (  -- each request beside the days its windows touch
    select requests.* exclude (known_at), epoch_us(request_time) // 86400000000 - unnest(range(8)) as known_day
    from requests
),
ended as (
    select outcomes.known_at, epoch_us(outcomes.known_at) // 86400000000 as known_day, outcome, tailnum, carrier, origin,
           dest
    from outcomes
    join scheduled on outcomes.flight_key = scheduled.flight_key
),
aircraft as (
    select days.flight_key, avg((outcome = 2)::integer) as late_7d
    from days
    join ended on days.tailnum = ended.tailnum and days.known_day = ended.known_day
    where ended.known_at <= request_time and ended.known_at > request_time - interval 7 day
    group by days.flight_key
),
route as (
    select days.flight_key, avg((outcome = 2)::integer) as late_7d, avg((outcome = 3)::integer) as cancelled_7d
    from days
    join ended
        on days.carrier = ended.carrier and days.origin = ended.origin and days.dest = ended.dest
        and days.known_day = ended.known_day
    where ended.known_at <= request_time and ended.known_at > request_time - interval 7 day
    group by days.flight_key
)
select
    requests.flight_key as key,
    requests.request_time,
    requests.carrier,
    requests.origin,
    requests.dest,
    requests.tailnum,
    requests.carrier || requests.flight as flight,
    requests.model,
    strftime(requests.request_time at time zone 'America/New_York', '%H') as hour,
    dayname(requests.request_time at time zone 'America/New_York') as weekday,
    aircraft.late_7d::float as aircraft_late_7d,
    route.late_7d::float as route_late_7d,
    route.cancelled_7d::float as route_cancelled_7d
from requests
left join aircraft on requests.flight_key = aircraft.flight_key
left join route on requests.flight_key = route.flight_key
