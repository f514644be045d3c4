"""Every construct that is translated, over tables made of edge cases: nulls, changes of the clocks, times before 1970.

`readings` and `others` share some keys; a group of `readings` has no row in `others`, and some rows have no key.
"""

from collections.abc import Mapping

TABLES: dict[str, dict[str, str]] = {
    "readings": {
        "id": "INTEGER", "k": "VARCHAR", "n": "INTEGER", "b": "BIGINT", "t": "TINYINT", "x": "DOUBLE", "f": "FLOAT",
        "s": "VARCHAR", "ok": "BOOLEAN", "seen": "TIMESTAMP WITH TIME ZONE", "wall": "TIMESTAMP", "day": "DATE",
    },
    "others": {"k": "VARCHAR", "seen": "TIMESTAMP WITH TIME ZONE", "v": "INTEGER", "w": "DOUBLE", "id": "BIGINT"},
}  # fmt: skip

ROWS: dict[str, str] = {
    "readings": r"""
        (1, 'a', 7, 9007199254740993, 1, 0.1, 0.1, 'Zürich', true, '2013-03-10 06:59:59.999999+00', '2013-03-10 02:30:00', '2013-03-10'),
        (2, 'a', -7, -5, -1, -0.0, '-0.0', '  spaced ', false, '2013-03-10 07:00:00+00', '1969-12-31 23:58:30.5', '1969-12-31'),
        (3, 'a', null, null, null, null, null, null, null, null, null, null),
        (4, 'b', 0, 0, 0, 2.5, 2.5, '', true, '2013-11-03 05:30:00+00', '2013-11-03 01:30:00', '2013-11-03'),
        (5, 'b', 2, 3600000001, 2, -3.5, -3.5, 'it''s a \ back%slash_', false, '2013-11-03 06:30:00+00', '2012-02-29 12:00:00', '2012-02-29'),
        (6, 'b', 2147483647, 9223372036854775807, 127, 'nan', 'nan', '日本語', null, '1969-12-31 23:58:30+00', '1900-01-01 00:00:00', '1900-01-01'),
        (7, null, 5, -86400000001, 3, 'inf', 'inf', 'z', true, '1969-12-31 23:59:59.9995+00', '2024-12-30 08:05:09', '2024-12-30'),
        (8, null, -2147483648, 1, -128, '-inf', '-inf', 'ß', false, '2024-01-01 00:00:00+00', '2021-01-03 23:59:59', '2021-01-03'),
        (9, 'c', 3, 2, 5, 1e300, 3.4028234663852886e38, 'a-b', true, '2013-07-04 12:34:56.789+00', '2013-07-04 12:34:56.789', '2013-07-04'),
        (10, 'd', 15, 16777217, 5, 16777217, 16777216, 'ab', null, '2013-03-10 06:59:59.999999+00', '2013-07-04 00:00:00', '2013-07-04')
    """,
    "others": """
        ('a', '2013-03-10 06:00:00+00', 1, 0.5, 1), ('a', '2013-03-10 07:00:00+00', 20, 1.5, 2),
        ('a', '2013-03-10 08:00:00+00', null, null, 3), ('b', '2013-11-03 06:00:00+00', -3, -0.25, 4),
        ('b', '1969-12-31 23:00:00+00', 16, 2.25, 5), (null, '2013-01-01 00:00:00+00', 9, 9.0, 6),
        ('e', '2013-03-10 06:00:00+00', 4, 4.0, 7), ('d', null, 8, 8.0, 8), ('c', '2013-07-04 12:34:56.789+00', 6, 6.5, 9)
    """,
}  # fmt: skip

CASES: Mapping[str, str] = {
    "literals": "select id, 1 as one, 3000000000 as many, 'it''s \\ \"q\"' as text, true as yes, false as no, 1e3 as e,"
    " null as nothing, null::varchar as nobody, 0.1::float as tenth, -2.5::double as minus, '2013-01-01'::date as d from readings",
    "conditions": "select id, n > 3 and ok as a, n > 3 or ok as o, not ok as no, ok is true as t, ok is false as f,"
    " n is null as nn, n is not null as there from readings",
    "comparisons": "select id, n < 5 as lt, n <= 5 as le, n = 7 as eq, n <> 7 as ne, n >= 5 as ge, k is distinct from 'a' as df,"
    " k is not distinct from null as nd, x = x as nan_equals, x > 1 as nan_greater, f > 0.1 as float_decimal, f = b as float_whole,"
    " x = 16777217 as d, s < 'Z' as bytes, n > 2.5 as half, seen >= '2013-03-10' as later, day < '2013-01-01' as earlier,"
    " day <= seen as mixed, b = x as whole_double from readings",
    "ranges": "select id, n between -7 and 5 as bt, f between 0.1 and 2.5 as fl, k in ('a', 'c') as i, n in (7, 3000000000) as l,"
    " n not in (1, 2) as ni, seen between '2013-01-01' and '2013-12-31' as y from readings",
    "case": "select id, case when n > 3 then 'big' when n < 0 then 'neg' else k end as c, case k when 'a' then 1 when 'b' then n end as s,"
    " if(ok, n, b) as i, case when ok then 1 else 0.5::double end as m, case when ok then f else 0 end as z from readings",
    "arithmetic": "select id, t::integer + 1 as add, (b % 1000) * 3 as mul, f + 1::bigint as fl, f * 0.1 as fd, x - 0.5 as xd, f - f as inf,"
    " -x as neg, -(b % 7) as mod, abs(f) as a, b // 3600 as whole, (n % 100)::tinyint // 7::tinyint as tiny from readings",
    "whole division": "select id, b // 86400000000 as day, b % 7 as m, (n // -2) as minus, n % -3 as mm from readings",
    "division": "select id, n / 2 as half, 1 / t as inverse, 0 / t as zero, x / x as xx, f / 3 as fl, 1 / x as signed, n / null as nn"
    " from readings",
    "casts": "select id, ok::integer as i, ok::integer::float as f, n::varchar as v, ok::varchar as bv, x::float::double as xd,"
    " seen::date as d, seen::timestamp as w, wall::timestamptz as z, wall::date as wd, day::timestamp as ds, b::float as bf, n::double as nd"
    " from readings where abs(x) < 1e30 or x is null",
    "rounding": "select id, x::integer as i, f::bigint as b, (x + 1)::smallint as s, t::bigint as w from readings where abs(x) < 100",
    "texts": "select id, k || '-' || n as j, s || null as n, concat(k, n, '/', s) as c, length(s) as l, substring(s, 2, 3) as p,"
    " substr(s, 3) as r, left(s, 2) as le, right(s, 2) as ri, lpad(s, 4, '0') as lp, rpad(s, 12, 'xy') as rp, trim(s) as t, ltrim(s) as lt,"
    " rtrim(s) as rt, replace(s, 'a', 'bb') as re, contains(s, 'a') as co, starts_with(s, 'Z') as st, ends_with(s, 'e ') as en,"
    " s like '%a_' as li, s like 'it''s%' as lq, k || ok as bo from readings",
    "choosing": "select id, coalesce(k, 'none') as c, coalesce(n, 0)::float as cf, coalesce(f, 0) as ff, ifnull(b, t) as i, greatest(n, 5, b) as g,"
    " least(n, 5) as l, nullif(n, 7) as nu, nullif(k, 'a') as ka, greatest(x, 1) as gx, coalesce(seen, '-infinity'::timestamptz) < '1970-01-01' as inf,"
    " seen > 'infinity'::timestamptz as never from readings",
    "elementary": "select id, radians(f) as r, sqrt(x) as s from readings",
    "logarithms": "select id, ln(n)::float as l, ln(0) as zero, ln(-1) as neg, exp(t)::float as e, sin(radians(n % 360))::float as si,"
    " cos(radians(n % 360))::float as co from readings where t < 80 or t is null",
    "parts": "select id, year(seen) as y, quarter(seen) as q, month(seen) as mo, week(seen) as w, weekofyear(day) as wy, day(seen) as d, dayofmonth(wall) as dm,"
    " dayofyear(day) as dy, dayofweek(seen) as dw, isodow(seen) as iso, hour(seen) as h, minute(wall) as mi, second(seen) as se,"
    " date_part('hour', wall) as dp, extract(dow from day) as ed, extract(isodow from wall) as ei, extract(doy from seen) as edo from readings",
    "zones": "select id, extract(hour from seen at time zone 'America/New_York') as ny, seen at time zone 'Australia/Lord_Howe' as lh,"
    " dayname(seen at time zone 'Asia/Tokyo') as dn, monthname(seen at time zone 'America/New_York') as mn, dayname(day) as dd,"
    " hour(seen at time zone 'Europe/Lisbon') as li from readings",
    "epochs": "select id, epoch_us(seen) as us, epoch_us(wall) as w, epoch_us(day) as d, epoch(seen) as s, epoch_us(seen) // 3600000000 as h from readings",
    "differences": "select id, "
    + ", ".join(
        f"date_diff('{unit}', seen, timestamptz '2013-03-10 12:00:00.25') as {unit}_a, datediff('{unit}', wall, timestamp '1969-12-31 23:59:00') as {unit}_w"
        for unit in ("microsecond", "millisecond", "second", "minute", "hour", "day", "month", "year")
    )
    + ", date_diff('minute', seen, seen) as zero, date_diff('day', day, seen) as mixed, date_diff('day', day, date '1970-01-01') as days from readings",
    "truncation": "select id, "
    + ", ".join(
        f"date_trunc('{unit}', seen) as {unit}_a, date_trunc('{unit}', wall) as {unit}_w"
        for unit in ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
    )
    + ", date_trunc('month', day) as d from readings",
    "strftime": "select id, strftime(seen, '%Y-%m-%dT%H:%M:%S.%f') as iso, strftime(wall, '%-d.%-m.%y %I:%M %p, %A %a %B %b %j') as words,"
    " strftime(day, 'on %Y-%m-%d') as f, strftime(seen at time zone 'America/New_York', '%H') as h, strftime(seen, '%H 100%% it''s [x] {y}') as t,"
    " strftime(seen, '%-H:%-M:%-S %-I') as plain from readings",
    "intervals": "select id, seen - interval 1 hour as h, wall + interval 1 month as mo, seen + interval '3' day as d, wall - interval 1 year as y,"
    " seen - interval 90 minute as mi, seen + interval 1500 millisecond as ms, seen - interval 1 week as w, seen - to_hours(t) as th, seen + to_minutes(t) as tm,"
    " wall - to_seconds(t) as ts, seen - to_days(t) as td, seen + interval 5 microsecond as us from readings",
    "structs": "select id, {first: n, second: k}.second as k, struct_pack(a := n).a as a from readings",
    "group": "select k, count(*) as c, count(n) as cn, count(distinct t) as cd, sum(n) as s, avg(n) as a, avg((n > 3)::integer) as share, min(x) as mi, max(x) as ma,"
    " min(s) as ms, max(seen) as mt, min(day) as md, max(ok) as mo, bool_and(ok) as ba, bool_or(ok) as bo, sum(b // 1000) as sb from readings group by all",
    "filters": "select k, count(*) filter (where n > 3) as c, avg(n) filter (where ok) as a, sum(n) filter (where n > 1000000000) as none,"
    " max(n) filter (where not ok) as m, any_value(n) filter (where id in (1, 4, 9)) as v, any_value(s) filter (where n = 0) as empty"
    " from readings group by k having count(*) > 1 or k = 'd'",
    "no groups": "select count(*) as c, sum(n) as s, avg(n) as a, max(k) as m, any_value(k) as v from readings where n = 123",
    "largest structs": "select k, max({moment: seen, late: n}) as m, min({moment: seen, late: n}) as l, max({moment: seen, late: n}) filter (where n < 0) as f,"
    " max({late: n, moment: seen}).late as w, max({late: n, moment: seen}) filter (where id = 99) as none from readings group by k",
    "arg": "select k, arg_max(id, seen) as a, arg_min(n, b) as i, max_by(s, n) as m, min_by(n, id) filter (where ok) as f from readings"
    " where id <> 10 group by k",
    "keys": "select n > 3 as big, k || 'x' as kx, count(*) as c from readings group by n > 3, kx",
    "positions": "select day, count(*) as c from readings group by 1",
    "distinct": "select distinct k, ok from readings",
    "join": "select r.id, o.v, o.w from readings r join others o on r.k = o.k and o.seen <= r.seen",
    "left join": "select r.id, o.v, o.k is null as none from readings r left join others o on r.k = o.k and r.seen >= o.seen + interval 30 minute",
    "right join": "select r.id, o.id as oid, o.v from readings r right join others o using (k)",
    "full join": "select r.id, o.id as oid from readings r full join others o on r.k = o.k and r.n = o.v",
    "using": "select k, r.id, v from readings r join others o using (k)",
    "cross join": "select r.id, o.id as oid from readings r cross join others o where o.v > r.n",
    "comma": "select r.id, o.id as oid from readings r, others o where r.k = o.k",
    "joined types": "select r.id, o.id as oid from readings r join others o on r.id = o.id",
    "asof join": "select r.id, o.v, o.seen from readings r asof join others o on r.k = o.k and r.seen >= o.seen",
    "asof left join": "select r.id, o.v, o.seen, o.k from readings r asof left join others o on r.k = o.k and r.seen > o.seen",
    "asof forward": "select r.id, o.v from readings r asof left join others o on o.k = r.k and r.seen <= o.seen",
    "asof strictly forward": "select r.id, o.v from readings r asof join others o on r.k = o.k and o.seen > r.seen",
    "asof without keys": "select r.id, o.moment from readings r asof left join (select max(v) as v, seen as moment from others group by seen) o on r.seen >= o.moment",
    "asof after a join": "select r.id, q.s, o.v, p.w from readings r join readings q on r.id = q.id asof left join others o on r.k = o.k and q.seen >= o.seen"
    " left join others p on p.k = o.k and p.v = o.v where r.id > 1",
    "unnest range": "select r.* exclude (s, x), epoch_us(seen) // 3600000000 - unnest(range(3)) as h from readings r where n > 0",
    "unnest range of two": "select id, unnest(range(2, 4)) as u from readings",
    "unnest list": "select id, unnest([1, 3, null, 24]) as ago, k from readings",
    "unnest texts": "select id, unnest(['x', 'it''s']) as u from readings",
    "union": "select id, k, n as one, null::integer as two from readings where ok union all select id, k, null, v from others union all"
    " select 99, 'z', 1, 2",
    "union types": "select id, n as v from readings union all select id, w from others",
    "union distinct": "select k from readings union select k from others",
    "with": "with first as (select k, count(*) as c from others group by k), second as (select * from first where c > 1)"
    " select r.id, second.c from readings r left join second on r.k = second.k",
    "shadow": "with readings as (select id, k from readings where id > 2) select * from readings",
    "subquery in from": "select q.k, q.c from (select k, count(*) as c from readings group by k) q where q.c > 1",
    "scalar subquery": "select r.id, (select avg(o.v) from others o where o.k = r.k and o.seen <= r.seen and o.seen > r.seen - interval 1 day)::float as a,"
    " (select count(*) from others o where o.k = r.k) as c from readings r",
    "one value": "select id, (select max(v) from others) as m from readings",
    "exists": "select id from readings r where exists (select 1 from others o where o.k = r.k and o.seen < r.seen)"
    " union all select id from readings r where not exists (select * from others o where o.k = r.k)",
    "in a query": "select id from readings where k in (select k from others where v > 0)",
    "windows": "select id, row_number() over (partition by k order by id) as rn, rank() over (order by k) as rk, dense_rank() over (order by k desc) as dr,"
    " lag(n) over (order by id) as lg, lead(s, 2) over (partition by k order by id) as ld, count(*) over (partition by k) as c,"
    " sum(n) over (order by id rows between 2 preceding and current row) as s, max(n) over (partition by k order by id rows between unbounded preceding and 1 preceding) as m,"
    " avg(n) over (order by seen range between interval 1 hour preceding and current row) as a, min(k) over (order by id desc) as mk,"
    " rank() over (order by n desc nulls first) as nf from readings",
    "qualify": "select id, k from readings qualify row_number() over (partition by k order by seen desc, id) = 1",
    "names": 'select id as "Number", k as "a b", n as "From" from readings',
    "alias": "select id, n * 2::bigint as twice, twice + 1 as more from readings where twice > 4",
}  # fmt: skip

REFUSED: Mapping[str, tuple[str, str]] = {
    "median": ("select k, median(n) as m from readings group by k", "median"),
    "list": ("select k, list(n) as m from readings group by k", "list"),
    "upper": ("select id, upper(s) as u from readings", "upper"),
    "round": ("select id, round(x) as r from readings", "round"),
    "hash": ("select id, hash(s) as h from readings", "hash"),
    "now": ("select id, now() as n from readings", "now"),
    "regular expression": ("select id, regexp_matches(s, 'a') as r from readings", "regexp"),
    "ilike": ("select id, s ilike 'a%' as r from readings", "ilike"),
    "sum of floats": ("select k, sum(x) as s from readings group by k", "sum of DOUBLE"),
    "avg of floats": ("select k, avg(f) as s from readings group by k", "avg of FLOAT"),
    "decimal column": ("select id, 0.5 as h from readings", "decimal"),
    "decimal sum": ("select id, n + 0.5 as h from readings", "decimal"),
    "text to number": ("select id, s::integer as h from readings", "cast from VARCHAR to INTEGER"),
    "number as text": ("select id, x::varchar as h from readings", "DOUBLE as text"),
    "time as text": ("select id, seen || '' as h from readings", "TIMESTAMP WITH TIME ZONE as text"),
    "try_cast": ("select id, try_cast(s as integer) as h from readings", "try_cast"),
    "local to instant": ("select id, wall at time zone 'Europe/Lisbon' as h from readings", "at time zone"),
    "difference of times": ("select id, seen - seen as h from readings", "-"),
    "// of doubles": ("select id, x // 2 as h from readings", "// of DOUBLE"),
    "order by": ("select id from readings order by id", "order by"),
    "limit": ("select id from readings limit 3", "limit"),
    "distinct on": ("select distinct on (k) k, id from readings", "distinct on"),
    "semi join": ("select r.id from readings r semi join others o on r.k = o.k", "semi join"),
    "positional join": ("select r.id from readings r positional join others o", "positional join"),
    "asof using": ("select r.id from readings r asof join others o using (k, seen)", "asof join using"),
    "two unnests": ("select id, unnest([1]) as a, unnest([2]) as b from readings", "unnest"),
    "unnest of a column": ("select id, unnest(range(n)) as a from readings where n < 3 and n >= 0", "unnest"),
    "values": ("select v.a from (values (1)) v(a)", "values"),
    "table function": ("select r.range from range(3) r", "in from"),
    "recursive": ("with recursive c as (select 1 as a union all select a + 1 from c where a < 3) select a from c", "with recursive"),
    "except": ("select k from readings except select k from others", "except"),
    "window over groups": ("select k, sum(count(*)) over () as c from readings group by k", "a window over groups"),
    "rollup": ("select k, count(*) as c from readings group by rollup (k)", "rollup"),
    "named window": ("select id, row_number() over w as r from readings window w as (order by id)", "window"),
    "strftime %U": ("select id, strftime(seen, '%U') as w from readings", "strftime('%U')"),
    "extract epoch": ("select id, extract(millennium from seen) as w from readings", "extract(millennium)"),
    "infinite result": ("select id, coalesce(seen, '-infinity'::timestamptz) as w from readings", "an infinite time"),
    "interval column": ("select id, interval 1 hour as w from readings", "a column of INTERVAL"),
    "like with escape": ("select id, s like 'a\\%' as w from readings", "like"),
    "list column": ("select id, [n] as w from readings", "array"),
    "compared types": ("select id, ok = n as w from readings", "comparing BOOLEAN with INTEGER"),
    "first": ("select k, first(n) as f from readings group by k", "first"),
    "ordered aggregate": ("select k, any_value(n order by id) as f from readings group by k", "order"),
    "lambda": ("select id, list_transform([1], lambda y: y + 1)[1] as f from readings", "bracket"),
}  # fmt: skip
