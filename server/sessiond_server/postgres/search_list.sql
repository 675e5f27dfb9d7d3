-- Fragments from which search.py composes searches, together with the conditions of list.sql. Buckets come the newest
-- first; `limit` stops at as many rows as are needed. Each row that the index finds is looked up by primary keys: "limit 1"
-- leaves the planner no other choice, and keeps the order of the numbers.

-- name: entries
with found as materialized (
  select e.number, e.seq, e.create_time, m.session_id
  from unnest(:buckets::bigint[]) with ordinality as b (bucket, place)
  cross join lateral (
    select * from search_entries e
    where e.feed_id = :feed_id and e.number >= b.bucket * 16384 and e.number < least((b.bucket + 1) * 16384, :before::bigint)
      and {keys}
    order by e.number desc
    offset 0
  ) e
  cross join lateral (
    select search_sessions.session_id from search_sessions
    where search_sessions.feed_id = :feed_id and search_sessions.number = e.session_number
    limit 1
  ) m
  cross join lateral (
    select 1 from {source}
    where s.session_id = m.session_id and {conditions}
    limit 1
  ) as selected
  limit :limit + 1
), sized as (
  select found.*, v.type, v.body, v.content, row_number() over onwards as place, count(*) over () as found,
    sum(coalesce(octet_length(v.body), 0) + coalesce(octet_length(v.content), 0)) over onwards as bytes
  from found
  left join lateral (
    select events.type, events.body, events.content from events
    where events.tenant_id = :tenant_id and events.session_id = found.session_id and events.seq = found.seq
      and events.type >= 20 and not exists (
        select from session_heads h
        where h.tenant_id = :tenant_id and h.session_id = found.session_id and h.rewound @> found.seq
      )
    limit 1
  ) v on true
  window onwards as (order by found.number desc rows unbounded preceding)
)
select number, seq, create_time, session_id, type, body, content, found from sized
where place <= :limit and (place = 1 or bytes <= :page_bytes)
order by number desc

-- name: sessions
select e.number, e.session_id
from unnest(:buckets::bigint[]) with ordinality as b (bucket, place)
cross join lateral (
  select * from search_sessions e
  where e.feed_id = :feed_id and e.number >= b.bucket * 16384 and e.number < least((b.bucket + 1) * 16384, :before::bigint)
    and {keys}
  order by e.number desc
  offset 0
) e
cross join lateral (
  select 1 from {source}
  where s.session_id = e.session_id and {conditions}
  limit 1
) as selected
limit :limit + 1

-- name: keys_all
e.keys @> (:all::integer[])[(b.place - 1) * :all_size::bigint + 1:b.place * :all_size]

-- name: keys_any
e.keys && (:any_{number}::integer[])[(b.place - 1) * :any_size_{number}::bigint + 1:b.place * :any_size_{number}]

-- name: roles
e.role = any (:roles::smallint[])

-- name: from_us
e.create_time >= :from_us::timestamptz

-- name: until_us
e.create_time < :until_us::timestamptz
