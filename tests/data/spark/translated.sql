-- Every construct that is translated, over the tables of edge.sql. A line `-- case: <name>` begins each.

-- case: literals
select id, 1 as one, 3000000000 as many, 'it''s \ "q"' as text, true as yes, false as no, 1e3 as e, null as nothing,
    null::varchar as nobody, 0.1::float as tenth, -2.5::double as minus, '2013-01-01'::date as d from readings;

-- case: conditions
select id, n > 3 and ok as a, n > 3 or ok as o, not ok as no, ok is true as t, ok is false as f, n is null as nn, n
    is not null as there from readings;

-- case: comparisons
select id, n < 5 as lt, n <= 5 as le, n = 7 as eq, n <> 7 as ne, n >= 5 as ge, k is distinct from 'a' as df, k is
    not distinct from null as nd, x = x as nan_equals, x > 1 as nan_greater, f > 0.1 as float_decimal, f = b as
    float_whole, x = 16777217 as d, s < 'Z' as bytes, n > 2.5 as half, seen >= '2013-03-10' as later, day <
    '2013-01-01' as earlier, day <= seen as mixed, b = x as whole_double from readings;

-- case: ranges
select id, n between -7 and 5 as bt, f between 0.1 and 2.5 as fl, k in ('a', 'c') as i, n in (7, 3000000000) as l, n
    not in (1, 2) as ni, seen between '2013-01-01' and '2013-12-31' as y from readings;

-- case: case
select id, case when n > 3 then 'big' when n < 0 then 'neg' else k end as c, case k when 'a' then 1 when 'b' then n
    end as s, if(ok, n, b) as i, case when ok then 1 else 0.5::double end as m, case when ok then f else 0 end as z
    from readings;

-- case: arithmetic
select id, t::integer + 1 as add, (b % 1000) * 3 as mul, f + 1::bigint as fl, f * 0.1 as fd, x - 0.5 as xd, f - f as
    inf, -x as neg, -(b % 7) as mod, abs(f) as a, b // 3600 as whole, (n % 100)::tinyint // 7::tinyint as tiny from
    readings;

-- case: whole division
select id, b // 86400000000 as day, b % 7 as m, (n // -2) as minus, n % -3 as mm from readings;

-- case: division
select id, n / 2 as half, 1 / t as inverse, 0 / t as zero, x / x as xx, f / 3 as fl, 1 / x as signed, n / null as nn
    from readings;

-- case: casts
select id, ok::integer as i, ok::integer::float as f, n::varchar as v, ok::varchar as bv, x::float::double as xd,
    seen::date as d, seen::timestamp as w, wall::timestamptz as z, wall::date as wd, day::timestamp as ds, b::float
    as bf, n::double as nd from readings where abs(x) < 1e30 or x is null;

-- case: rounding
select id, x::integer as i, f::bigint as b, (x + 1)::smallint as s, t::bigint as w from readings where abs(x) < 100;

-- case: texts
select id, k || '-' || n as j, s || null as n, concat(k, n, '/', s) as c, length(s) as l, substring(s, 2, 3) as p,
    substr(s, 3) as r, left(s, 2) as le, right(s, 2) as ri, lpad(s, 4, '0') as lp, rpad(s, 12, 'xy') as rp, trim(s)
    as t, ltrim(s) as lt, rtrim(s) as rt, replace(s, 'a', 'bb') as re, contains(s, 'a') as co, starts_with(s, 'Z')
    as st, ends_with(s, 'e ') as en, s like '%a_' as li, s like 'it''s%' as lq, k || ok as bo from readings;

-- case: choosing
select id, coalesce(k, 'none') as c, coalesce(n, 0)::float as cf, coalesce(f, 0) as ff, ifnull(b, t) as i,
    greatest(n, 5, b) as g, least(n, 5) as l, nullif(n, 7) as nu, nullif(k, 'a') as ka, greatest(x, 1) as gx,
    coalesce(seen, '-infinity'::timestamptz) < '1970-01-01' as inf, seen > 'infinity'::timestamptz as never from
    readings;

-- case: elementary
select id, radians(f) as r, sqrt(x) as s from readings;

-- case: logarithms
select id, ln(n)::float as l, ln(0) as zero, ln(-1) as neg, exp(t)::float as e, sin(radians(n % 360))::float as si,
    cos(radians(n % 360))::float as co from readings where t < 80 or t is null;

-- case: parts
select id, year(seen) as y, quarter(seen) as q, month(seen) as mo, week(seen) as w, weekofyear(day) as wy, day(seen)
    as d, dayofmonth(wall) as dm, dayofyear(day) as dy, dayofweek(seen) as dw, isodow(seen) as iso, hour(seen) as h,
    minute(wall) as mi, second(seen) as se, date_part('hour', wall) as dp, extract(dow from day) as ed,
    extract(isodow from wall) as ei, extract(doy from seen) as edo from readings;

-- case: zones
select id, extract(hour from seen at time zone 'America/New_York') as ny, seen at time zone 'Australia/Lord_Howe' as
    lh, dayname(seen at time zone 'Asia/Tokyo') as dn, monthname(seen at time zone 'America/New_York') as mn,
    dayname(day) as dd, hour(seen at time zone 'Europe/Lisbon') as li from readings;

-- case: epochs
select id, epoch_us(seen) as us, epoch_us(wall) as w, epoch_us(day) as d, epoch(seen) as s, epoch_us(seen) //
    3600000000 as h from readings;

-- case: differences
select id, date_diff('microsecond', seen, timestamptz '2013-03-10 12:00:00.25') as microsecond_a,
    datediff('microsecond', wall, timestamp '1969-12-31 23:59:00') as microsecond_w, date_diff('millisecond', seen,
    timestamptz '2013-03-10 12:00:00.25') as millisecond_a, datediff('millisecond', wall, timestamp
    '1969-12-31 23:59:00') as millisecond_w, date_diff('second', seen, timestamptz '2013-03-10 12:00:00.25') as
    second_a, datediff('second', wall, timestamp '1969-12-31 23:59:00') as second_w, date_diff('minute', seen,
    timestamptz '2013-03-10 12:00:00.25') as minute_a, datediff('minute', wall, timestamp '1969-12-31 23:59:00') as
    minute_w, date_diff('hour', seen, timestamptz '2013-03-10 12:00:00.25') as hour_a, datediff('hour', wall,
    timestamp '1969-12-31 23:59:00') as hour_w, date_diff('day', seen, timestamptz '2013-03-10 12:00:00.25') as
    day_a, datediff('day', wall, timestamp '1969-12-31 23:59:00') as day_w, date_diff('month', seen, timestamptz
    '2013-03-10 12:00:00.25') as month_a, datediff('month', wall, timestamp '1969-12-31 23:59:00') as month_w,
    date_diff('year', seen, timestamptz '2013-03-10 12:00:00.25') as year_a, datediff('year', wall, timestamp
    '1969-12-31 23:59:00') as year_w, date_diff('minute', seen, seen) as zero, date_diff('day', day, seen) as mixed,
    date_diff('day', day, date '1970-01-01') as days from readings;

-- case: truncation
select id, date_trunc('second', seen) as second_a, date_trunc('second', wall) as second_w, date_trunc('minute',
    seen) as minute_a, date_trunc('minute', wall) as minute_w, date_trunc('hour', seen) as hour_a,
    date_trunc('hour', wall) as hour_w, date_trunc('day', seen) as day_a, date_trunc('day', wall) as day_w,
    date_trunc('week', seen) as week_a, date_trunc('week', wall) as week_w, date_trunc('month', seen) as month_a,
    date_trunc('month', wall) as month_w, date_trunc('quarter', seen) as quarter_a, date_trunc('quarter', wall) as
    quarter_w, date_trunc('year', seen) as year_a, date_trunc('year', wall) as year_w, date_trunc('month', day) as d
    from readings;

-- case: strftime
select id, strftime(seen, '%Y-%m-%dT%H:%M:%S.%f') as iso, strftime(wall, '%-d.%-m.%y %I:%M %p, %A %a %B %b %j') as
    words, strftime(day, 'on %Y-%m-%d') as f, strftime(seen at time zone 'America/New_York', '%H') as h,
    strftime(seen, '%H 100%% it''s [x] {y}') as t, strftime(seen, '%-H:%-M:%-S %-I') as plain from readings;

-- case: intervals
select id, seen - interval 1 hour as h, wall + interval 1 month as mo, seen + interval '3' day as d, wall - interval
    1 year as y, seen - interval 90 minute as mi, seen + interval 1500 millisecond as ms, seen - interval 1 week as
    w, seen - to_hours(t) as th, seen + to_minutes(t) as tm, wall - to_seconds(t) as ts, seen - to_days(t) as td,
    seen + interval 5 microsecond as us from readings;

-- case: structs
select id, {first: n, second: k}.second as k, struct_pack(a := n).a as a from readings;

-- case: group
select k, count(*) as c, count(n) as cn, count(distinct t) as cd, sum(n) as s, avg(n) as a, avg((n > 3)::integer) as
    share, min(x) as mi, max(x) as ma, min(s) as ms, max(seen) as mt, min(day) as md, max(ok) as mo, bool_and(ok) as
    ba, bool_or(ok) as bo, sum(b // 1000) as sb from readings group by all;

-- case: filters
select k, count(*) filter (where n > 3) as c, avg(n) filter (where ok) as a, sum(n) filter (where n > 1000000000) as
    none, max(n) filter (where not ok) as m, any_value(n) filter (where id in (1, 4, 9)) as v, any_value(s) filter
    (where n = 0) as empty from readings group by k having count(*) > 1 or k = 'd';

-- case: no groups
select count(*) as c, sum(n) as s, avg(n) as a, max(k) as m, any_value(k) as v from readings where n = 123;

-- case: largest structs
select k, max({moment: seen, late: n}) as m, min({moment: seen, late: n}) as l, max({moment: seen, late: n}) filter
    (where n < 0) as f, max({late: n, moment: seen}).late as w, max({late: n, moment: seen}) filter (where id = 99)
    as none from readings group by k;

-- case: arg
select k, arg_max(id, seen) as a, arg_min(n, b) as i, max_by(s, n) as m, min_by(n, id) filter (where ok) as f from
    readings where id <> 10 group by k;

-- case: keys
select n > 3 as big, k || 'x' as kx, count(*) as c from readings group by n > 3, kx;

-- case: positions
select day, count(*) as c from readings group by 1;

-- case: distinct
select distinct k, ok from readings;

-- case: join
select r.id, o.v, o.w from readings r join others o on r.k = o.k and o.seen <= r.seen;

-- case: left join
select r.id, o.v, o.k is null as none from readings r left join others o on r.k = o.k and r.seen >= o.seen +
    interval 30 minute;

-- case: right join
select r.id, o.id as oid, o.v from readings r right join others o using (k);

-- case: full join
select r.id, o.id as oid from readings r full join others o on r.k = o.k and r.n = o.v;

-- case: using
select k, r.id, v from readings r join others o using (k);

-- case: cross join
select r.id, o.id as oid from readings r cross join others o where o.v > r.n;

-- case: comma
select r.id, o.id as oid from readings r, others o where r.k = o.k;

-- case: joined types
select r.id, o.id as oid from readings r join others o on r.id = o.id;

-- case: asof join
select r.id, o.v, o.seen from readings r asof join others o on r.k = o.k and r.seen >= o.seen;

-- case: asof left join
select r.id, o.v, o.seen, o.k from readings r asof left join others o on r.k = o.k and r.seen > o.seen;

-- case: asof forward
select r.id, o.v from readings r asof left join others o on o.k = r.k and r.seen <= o.seen;

-- case: asof strictly forward
select r.id, o.v from readings r asof join others o on r.k = o.k and o.seen > r.seen;

-- case: asof without keys
select r.id, o.moment from readings r asof left join (select max(v) as v, seen as moment from others group by seen)
    o on r.seen >= o.moment;

-- case: asof after a join
select r.id, q.s, o.v, p.w from readings r join readings q on r.id = q.id asof left join others o on r.k = o.k and
    q.seen >= o.seen left join others p on p.k = o.k and p.v = o.v where r.id > 1;

-- case: unnest range
select r.* exclude (s, x), epoch_us(seen) // 3600000000 - unnest(range(3)) as h from readings r where n > 0;

-- case: unnest range of two
select id, unnest(range(2, 4)) as u from readings;

-- case: unnest list
select id, unnest([1, 3, null, 24]) as ago, k from readings;

-- case: unnest texts
select id, unnest(['x', 'it''s']) as u from readings;

-- case: union
select id, k, n as one, null::integer as two from readings where ok union all select id, k, null, v from others
    union all select 99, 'z', 1, 2;

-- case: union types
select id, n as v from readings union all select id, w from others;

-- case: union distinct
select k from readings union select k from others;

-- case: with
with first as (select k, count(*) as c from others group by k), second as (select * from first where c > 1) select
    r.id, second.c from readings r left join second on r.k = second.k;

-- case: shadow
with readings as (select id, k from readings where id > 2) select * from readings;

-- case: subquery in from
select q.k, q.c from (select k, count(*) as c from readings group by k) q where q.c > 1;

-- case: scalar subquery
select r.id, (select avg(o.v) from others o where o.k = r.k and o.seen <= r.seen and o.seen > r.seen - interval 1
    day)::float as a, (select count(*) from others o where o.k = r.k) as c from readings r;

-- case: one value
select id, (select max(v) from others) as m from readings;

-- case: exists
select id from readings r where exists (select 1 from others o where o.k = r.k and o.seen < r.seen) union all select
    id from readings r where not exists (select * from others o where o.k = r.k);

-- case: in a query
select id from readings where k in (select k from others where v > 0);

-- case: windows
select id, row_number() over (partition by k order by id) as rn, rank() over (order by k) as rk, dense_rank() over
    (order by k desc) as dr, lag(n) over (order by id) as lg, lead(s, 2) over (partition by k order by id) as ld,
    count(*) over (partition by k) as c, sum(n) over (order by id rows between 2 preceding and current row) as s,
    max(n) over (partition by k order by id rows between unbounded preceding and 1 preceding) as m, avg(n) over
    (order by seen range between interval 1 hour preceding and current row) as a, min(k) over (order by id desc) as
    mk, rank() over (order by n desc nulls first) as nf from readings;

-- case: qualify
select id, k from readings qualify row_number() over (partition by k order by seen desc, id) = 1;

-- case: names
select id as "Number", k as "a b", n as "From" from readings;

-- case: alias
select id, n * 2::bigint as twice, twice + 1 as more from readings where twice > 4;

-- case: an alias like a column
select id + 1 as id, id * 2 as twice, n as k from readings where id > 3;

-- case: a key like a column
select n % 2 as n, count(*) as c from readings group by n;

-- case: aggregate of an alias
select k, n + 1::bigint as more, count(*) as c, max(id) as id from readings where more > 0 group by all having c > 0;

-- case: nulls in lists
select id, n in (7, null) as i, n not in (7, null) as ni, k in (null) as nk from readings;

-- case: nested
with a as (with b as (select id, k from readings where id > 1) select k, count(*) as c from b group by k)
select a.k, q.v from a left join (select k, max(v) as v from others group by k) q on q.k is not distinct from a.k;
