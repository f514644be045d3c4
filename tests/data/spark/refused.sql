-- What is refused, each with the words its refusal says: `-- case: <name> | <words>`. DuckDB accepts every one.

-- case: median | median
select k, median(n) as m from readings group by k;

-- case: list | list
select k, list(n) as m from readings group by k;

-- case: upper | upper
select id, upper(s) as u from readings;

-- case: round | round
select id, round(x) as r from readings;

-- case: hash | hash
select id, hash(s) as h from readings;

-- case: now | now
select id, now() as n from readings;

-- case: regular expression | regexp
select id, regexp_matches(s, 'a') as r from readings;

-- case: ilike | ilike
select id, s ilike 'a%' as r from readings;

-- case: sum of floats | sum of DOUBLE
select k, sum(x) as s from readings group by k;

-- case: avg of floats | avg of FLOAT
select k, avg(f) as s from readings group by k;

-- case: decimal column | decimal
select id, 0.5 as h from readings;

-- case: decimal sum | decimal
select id, n + 0.5 as h from readings;

-- case: text to number | cast from VARCHAR to INTEGER
select id, s::integer as h from readings;

-- case: number as text | DOUBLE as text
select id, x::varchar as h from readings;

-- case: time as text | TIMESTAMP WITH TIME ZONE as text
select id, seen || '' as h from readings;

-- case: try_cast | try_cast
select id, try_cast(s as integer) as h from readings;

-- case: local to instant | at time zone
select id, wall at time zone 'Europe/Lisbon' as h from readings;

-- case: difference of times | -
select id, seen - seen as h from readings;

-- case: // of doubles | // of DOUBLE
select id, x // 2 as h from readings;

-- case: order by | order by
select id from readings order by id;

-- case: limit | limit
select id from readings limit 3;

-- case: distinct on | distinct on
select distinct on (k) k, id from readings;

-- case: semi join | semi join
select r.id from readings r semi join others o on r.k = o.k;

-- case: positional join | positional join
select r.id from readings r positional join others o;

-- case: asof using | asof join using
select r.id from readings r asof join others o using (k, seen);

-- case: two unnests | unnest
select id, unnest([1]) as a, unnest([2]) as b from readings;

-- case: unnest of a column | unnest
select id, unnest(range(n)) as a from readings where n < 3 and n >= 0;

-- case: values | values
select v.a from (values (1)) v(a);

-- case: table function | in from
select r.range from range(3) r;

-- case: recursive | with recursive
with recursive c as (select 1 as a union all select a + 1 from c where a < 3) select a from c;

-- case: except | except
select k from readings except select k from others;

-- case: window over groups | a window over groups
select k, sum(count(*)) over () as c from readings group by k;

-- case: rollup | rollup
select k, count(*) as c from readings group by rollup (k);

-- case: named window | window
select id, row_number() over w as r from readings window w as (order by id);

-- case: strftime %U | strftime('%U')
select id, strftime(seen, '%U') as w from readings;

-- case: extract epoch | extract(millennium)
select id, extract(millennium from seen) as w from readings;

-- case: infinite result | an infinite time
select id, coalesce(seen, '-infinity'::timestamptz) as w from readings;

-- case: interval column | a column of INTERVAL
select id, interval 1 hour as w from readings;

-- case: like with escape | like
select id, s like 'a\%' as w from readings;

-- case: list column | array
select id, [n] as w from readings;

-- case: compared types | comparing BOOLEAN with INTEGER
select id, ok = n as w from readings;

-- case: first | first
select k, first(n) as f from readings group by k;

-- case: ordered aggregate | order
select k, any_value(n order by id) as f from readings group by k;

-- case: lambda | bracket
select id, list_transform([1], lambda y: y + 1)[1] as f from readings;

-- case: compared spans | comparing INTERVAL with INTERVAL
select id, to_hours(n % 5) > interval 1 hour as w from readings;
