-- The features of a reading as of the hour it became known: itself, and how it came there over the last day.
with
hours as (
    select requests.reading, requests.request_time, requests.origin, unnest([1, 3, 6, 12, 24]) as ago
    from requests
),
before as (
    select
        hours.reading,
        any_value(earlier.temp) filter (ago = 1) as temp_1h,
        any_value(earlier.temp) filter (ago = 3) as temp_3h,
        any_value(earlier.temp) filter (ago = 6) as temp_6h,
        any_value(earlier.temp) filter (ago = 12) as temp_12h,
        any_value(earlier.temp) filter (ago = 24) as temp_24h,
        any_value(earlier.pressure) filter (ago = 3) as pressure_3h
    from hours
    join reading_taken as earlier
        on hours.origin = earlier.origin
        and earlier.known_at = hours.request_time - to_hours(hours.ago)
    group by hours.reading
)
select
    requests.reading as key,
    requests.request_time,
    requests.origin,
    lpad(hour(requests.request_time at time zone 'America/New_York')::varchar, 2, '0') as hour,
    monthname(requests.request_time at time zone 'America/New_York') as month,
    requests.temp,
    requests.dewp,
    requests.humid,
    requests.wind_speed,
    sin(radians(requests.wind_dir))::float as wind_east,
    cos(radians(requests.wind_dir))::float as wind_north,
    requests.pressure,
    requests.precip,
    (requests.temp - temp_1h)::float as warmer_1h,
    (requests.temp - temp_3h)::float as warmer_3h,
    (requests.temp - temp_6h)::float as warmer_6h,
    (requests.temp - temp_12h)::float as warmer_12h,
    (requests.temp - temp_24h)::float as warmer_24h,
    (requests.pressure - pressure_3h)::float as pressure_rise_3h
from requests
left join before on requests.reading = before.reading
