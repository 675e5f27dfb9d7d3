-- Reads of a session as it was at an earlier place of its log. Each is one statement, so it finds the events of a fork where
-- they are, whatever becomes of its parent between two of them. read.sql explains the parameters $1 to $3, schema.sql log_of.

-- name: log_at  index: session_heads_pkey session_segments_pkey events_pkey
-- What the core at the place $4 is made of: the events through $4, from the last one that has the core on, which lies at
-- most $6 events before; or, if $5 is not 0, from the one behind $5 on. At most 512 of them and $7 bytes. No row: no
-- session; one row without seq: no such event.
with head as materialized (
  select h.version, h.core, h.fork_seq from session_heads h
  where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
), parts as materialized (
  select p.* from (
    select s.log_id, s.first_seq, least(s.last_seq, $4) as last_seq from head
    cross join lateral (
      select * from session_segments
      where session_segments.tenant_id = $1 and session_segments.session_id = $2 and head.fork_seq is not null
      offset 0
    ) s
    where s.first_seq <= $4 and s.last_seq >= $4 - $6::bigint
    union all
    select $2, coalesce(head.fork_seq, 0) + 1, $4 from head where coalesce(head.fork_seq, 0) < $4
  ) p
  order by p.last_seq desc
), base as materialized (
  select b.seq from parts
  cross join lateral (
    select events.seq from events
    where events.tenant_id = $1 and events.session_id = parts.log_id
      and events.seq >= greatest(parts.first_seq, $4 - $6::bigint) and events.seq <= parts.last_seq
      and (events.core is not null or events.type between 1 and 19)
    order by events.seq desc
    limit 1
  ) b
  limit 1
)
select head.version, head.core, head.fork_seq, l.seq, l.type, l.create_time, l.message_id, l.body, l.head, l.kept
from head
left join lateral (
  select sized.* from (
    select page.*, row_number() over upwards as place,
      sum(octet_length(page.body) + octet_length(page.head)) over upwards as bytes
    from (
      select e.* from parts
      cross join lateral (
        select events.seq, abs(events.type)::smallint as type, events.create_time, events.message_id, events.body, events.head,
          coalesce(events.core, events.body) as kept
        from events
        where events.tenant_id = $1 and events.session_id = parts.log_id and events.seq >= parts.first_seq
          and events.seq >= case when $5::bigint = 0 then coalesce((select seq from base), $4 + 1) else $5 + 1 end
          and events.seq <= parts.last_seq
        order by events.seq
        limit 512
      ) e
      order by e.seq
      limit 512
    ) page
    window upwards as (order by page.seq rows unbounded preceding)
  ) sized
  where sized.place = 1 or sized.bytes <= $7::bigint
) l on true
order by l.seq

-- name: runs_at  index: session_heads_pkey runs_by_status
-- The last runs begun before $4, at most $6 of them and $7 bytes, as they are now; 1 to 5 are all statuses. $5: the place,
-- which $4 is not above by more than 1. `found` counts up to $6 + 1. No row: no session; one row without place: no runs.
select h.version, h.core, h.fork_seq, m.place, m.run_id, m.status, m.body, m.found
from session_heads h
left join lateral (
  select sized.* from (
    select newest.*, row_number() over downwards as number, sum(octet_length(newest.body)) over downwards as bytes,
      count(*) over () as found
    from (
      select r.* from unnest('{1,2,3,4,5}'::smallint[]) as s (status)
      cross join lateral (
        select runs.place, runs.run_id, runs.status, runs.body from runs
        where runs.tenant_id = $1 collate "POSIX" and runs.session_id = $2 collate "POSIX" and runs.status = s.status
          and runs.place < least($4, $5::bigint + 1)
        order by runs.place desc
        limit $6::bigint + 1
      ) r
      order by r.place desc
      limit $6::bigint + 1
    ) newest
    window downwards as (order by newest.place desc rows unbounded preceding)
  ) sized
  where sized.number <= $6 and (sized.number = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.place desc

-- name: bodies_at  index: events_pkey
-- The bodies of the session's events at these places.
select e.seq, e.body
from unnest((select $3::bigint[])) as k (seq)
cross join lateral (
  select events.seq, events.body from events
  where events.tenant_id = $1 and events.session_id = log_of($1, $2, k.seq) and events.seq = k.seq
  limit 1
) e

-- name: calls_at  index: session_heads_pkey tool_calls_by_status
-- As runs_at, of the tool calls requested last; 1 to 7 are all statuses.
select h.version, h.core, h.fork_seq, m.seq, m.tool_call_id, m.status, m.result_seq, m.body, m.found
from session_heads h
left join lateral (
  select sized.* from (
    select newest.*, row_number() over downwards as number, sum(octet_length(newest.body)) over downwards as bytes,
      count(*) over () as found
    from (
      select t.* from unnest('{1,2,3,4,5,6,7}'::smallint[]) as s (status)
      cross join lateral (
        select tool_calls.seq, tool_calls.tool_call_id, tool_calls.status, tool_calls.result_seq, tool_calls.body
        from tool_calls
        where tool_calls.tenant_id = $1 collate "POSIX" and tool_calls.session_id = $2 collate "POSIX"
          and tool_calls.status = s.status and tool_calls.seq < least($4, $5::bigint + 1)
        order by tool_calls.seq desc
        limit $6::bigint + 1
      ) t
      order by t.seq desc
      limit $6::bigint + 1
    ) newest
    window downwards as (order by newest.seq desc rows unbounded preceding)
  ) sized
  where sized.number <= $6 and (sized.number = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq desc

-- name: calls_of_run_at  index: session_heads_pkey tool_calls_by_run
-- As calls_at, of the run $8.
select h.version, h.core, h.fork_seq, m.seq, m.tool_call_id, m.status, m.result_seq, m.body, m.found
from session_heads h
left join lateral (
  select sized.* from (
    select newest.*, row_number() over downwards as number, sum(octet_length(newest.body)) over downwards as bytes,
      count(*) over () as found
    from (
      select t.seq, t.tool_call_id, t.status, t.result_seq, t.body from tool_calls t
      where t.tenant_id = $1 collate "POSIX" and t.session_id = $2 collate "POSIX" and t.run_id = $8::text
        and t.run_id <> '' and t.seq < least($4, $5::bigint + 1)
      order by t.seq desc
      limit $6::bigint + 1
    ) newest
    window downwards as (order by newest.seq desc rows unbounded preceding)
  ) sized
  where sized.number <= $6 and (sized.number = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq desc

-- name: call_states  index: events_pkey
-- Events of tool calls up to $3: each between the seq $4 of its call's request and $3, of the time $5 and the type $6, with a
-- body that begins with $7, or, where that is empty, whatever the body is. The times of a log's events ascend, but several may be equal: halving finds the first and the
-- last event of that time. So the cost grows with the logarithm of the length of the log.
select k.place, e.seq, e.body
from unnest((select $4::bigint[]), (select $5::timestamptz[]), (select $6::smallint[]), (select $7::bytea[]))
  with ordinality as k (seq, time, type, prefix, place)
cross join lateral (
  with recursive halves (low, high) as (
    select k.seq, $3::bigint
    union all
    select case when e.create_time < k.time then e.seq else h.low end,
      case when e.create_time < k.time then h.high else e.seq - 1 end
    from halves h
    cross join lateral (
      select events.seq, events.create_time from events
      where events.tenant_id = $1 and events.seq = (h.low + h.high + 1) / 2
        and events.session_id = log_of($1, $2, (h.low + h.high + 1) / 2)
      limit 1
    ) e
    where h.low < h.high
  )
  select halves.low as seq from halves where halves.low = halves.high
) before
cross join lateral (
  with recursive halves (low, high) as (
    select before.seq, $3::bigint
    union all
    select case when e.create_time <= k.time then e.seq else h.low end,
      case when e.create_time <= k.time then h.high else e.seq - 1 end
    from halves h
    cross join lateral (
      select events.seq, events.create_time from events
      where events.tenant_id = $1 and events.seq = (h.low + h.high + 1) / 2
        and events.session_id = log_of($1, $2, (h.low + h.high + 1) / 2)
      limit 1
    ) e
    where h.low < h.high
  )
  select halves.low as seq from halves where halves.low = halves.high
) until
cross join lateral (
  select events.seq, events.body
  from generate_series(before.seq + 1, until.seq) as n (seq)
  cross join lateral (
    select * from events
    where events.tenant_id = $1 and events.session_id = log_of($1, $2, n.seq) and events.seq = n.seq
    limit 1
  ) events
  where events.type = k.type and substring(events.body from 1 for octet_length(k.prefix)) = k.prefix
  limit case when k.prefix = '' then 1000 else 1 end
) e

-- name: call_data  index: events_pkey
-- Arguments and results of tool calls, which the events at $3 and $4 have; 0: none. Of the first calls, as many as have $5
-- bytes together. Reading sizes does not fetch values stored out of line.
select sized.arguments, sized.result from (
  select page.*,
    sum(coalesce(octet_length(page.arguments), 0) + coalesce(octet_length(page.result), 0))
      over (order by page.place rows unbounded preceding) as bytes
  from (
    select k.place, requested.content as arguments, ended.content as result
    from unnest((select $3::bigint[]), (select $4::bigint[])) with ordinality as k (seq, result_seq, place)
    left join lateral (
      select events.content from events
      where events.tenant_id = $1 and events.session_id = log_of($1, $2, k.seq) and events.seq = k.seq
      limit 1
    ) requested on true
    left join lateral (
      select events.content from events
      where events.tenant_id = $1 and events.session_id = log_of($1, $2, k.result_seq) and events.seq = k.result_seq
      limit 1
    ) ended on true
  ) page
) sized
where sized.place = 1 or sized.bytes <= $5::bigint
order by sized.place

-- name: place_at  index: session_heads_pkey events_pkey
-- The seq of the session's last event at or before the time $6, which lies from $4 through $5; $4: there is none above it.
-- No row: no session, or one that has not these events.
with recursive halves (low, high) as (
  select $4::bigint, $5::bigint
  from session_heads h
  where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
  union all
  select case when e.create_time <= $6 then e.seq else h.low end, case when e.create_time <= $6 then h.high else e.seq - 1 end
  from halves h
  cross join lateral (
    select events.seq, events.create_time from events
    where events.tenant_id = $1 and events.seq = (h.low + h.high + 1) / 2
      and events.session_id = log_of($1, $2, (h.low + h.high + 1) / 2)
    limit 1
  ) e
  where h.low < h.high
)
select low as seq from halves where low = high
