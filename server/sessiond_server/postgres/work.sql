-- Runs and tool calls: look-ups and writes of batches, and reads. write.sql explains the form of look-ups; schema.sql
-- explains "POSIX" at the indexes of events.

-- name: find_runs  index: runs_pkey
select k.place, r.body
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, run_id, place)
cross join lateral (
  select * from runs
  where runs.tenant_id = k.tenant_id and runs.session_id = k.session_id and runs.run_id = k.run_id
  limit 1
) r

-- name: find_tool_calls  index: tool_calls_pkey events_pkey
select k.place, t.body, requested.content as arguments, ended.content as result
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, tool_call_id, place)
cross join lateral (
  select * from tool_calls
  where tool_calls.tenant_id = k.tenant_id and tool_calls.session_id = k.session_id
    and tool_calls.tool_call_id = k.tool_call_id
  limit 1
) t
left join lateral (
  select * from events
  where events.tenant_id = k.tenant_id and events.seq = t.seq
    and events.session_id = case when t.inherited then log_of(k.tenant_id, k.session_id, t.seq) else k.session_id end
  limit 1
) requested on true
left join lateral (
  select * from events
  where events.tenant_id = k.tenant_id and events.seq = t.result_seq
    and events.session_id = case when t.inherited then log_of(k.tenant_id, k.session_id, t.result_seq) else k.session_id end
  limit 1
) ended on true

-- name: find_work  index: runs_by_status tool_calls_by_status run_figures_pkey
-- Unfinished runs and tool calls of these sessions, and the counters of ended runs. Of runs, 1 and 2 are QUEUED and
-- RUNNING; of tool calls, 1, 2 and 4 are PENDING, APPROVED and RUNNING.
with keys as materialized (
  select * from unnest((select $1::text[]), (select $2::text[])) with ordinality as k (tenant_id, session_id, place)
)
select 1 as kind, keys.place, r.body
from keys
cross join (values (1), (2)) as open (status)
cross join lateral (
  select runs.body from runs
  where runs.tenant_id = keys.tenant_id collate "POSIX" and runs.session_id = keys.session_id collate "POSIX"
    and runs.status = open.status
  offset 0
) r
union all
select 2, keys.place, t.body
from keys
cross join (values (1), (2), (4)) as open (status)
cross join lateral (
  select tool_calls.body from tool_calls
  where tool_calls.tenant_id = keys.tenant_id collate "POSIX"
    and tool_calls.session_id = keys.session_id collate "POSIX" and tool_calls.status = open.status
  offset 0
) t
union all
select 3, keys.place, f.figures
from keys
cross join lateral (
  select run_figures.figures from run_figures
  where run_figures.tenant_id = keys.tenant_id and run_figures.session_id = keys.session_id
  limit 1
) f

-- name: write_work
with run_rows as (
  insert into runs (tenant_id, session_id, run_id, place, status, body)
  select * from unnest(:run_tenant_id::text[], :run_session_id::text[], :run_id::text[], :run_place::bigint[],
    :run_status::smallint[], :run_body::bytea[])
  on conflict (tenant_id, session_id, run_id) do update
  set status = excluded.status, body = excluded.body
), call_rows as (
  insert into tool_calls (tenant_id, session_id, tool_call_id, seq, status, awaits_approval, create_time, expire_time,
    result_seq, run_id, user_id, body, inherited)
  select * from unnest(:call_tenant_id::text[], :call_session_id::text[], :call_id::text[], :call_seq::bigint[],
    :call_status::smallint[], :call_awaits_approval::boolean[], :call_create_time::timestamptz[],
    :call_expire_time::timestamptz[], :call_result_seq::bigint[], :call_run_id::text[], :call_user_id::text[], :call_body::bytea[],
    :call_inherited::boolean[])
  on conflict (tenant_id, session_id, tool_call_id) do update
  set status = excluded.status, awaits_approval = excluded.awaits_approval, expire_time = excluded.expire_time,
    result_seq = excluded.result_seq, body = excluded.body
)
insert into run_figures (tenant_id, session_id, figures)
select * from unnest(:counters_tenant_id::text[], :counters_session_id::text[], :counters::bytea[])
on conflict (tenant_id, session_id) do update
set figures = excluded.figures

-- name: write_leases  index: session_heads_pkey
-- Extended leases. expire_check_time stays as it is, too early, and the sweeper moves it later. It is after the new lease
-- only if the clock has gone back.
update session_heads h
set lease_expire_time = k.lease_expire_time, expire_check_time = least(h.expire_check_time, k.lease_expire_time)
from unnest($1::text[], $2::text[], $3::timestamptz[]) as k (tenant_id, session_id, lease_expire_time)
where h.tenant_id = k.tenant_id and h.session_id = k.session_id

-- name: get_run  index: session_heads_pkey runs_pkey
-- $1 to $3 as in read.sql.
select h.version, h.lease_expire_time, r.status, r.body
from session_heads h
left join lateral (
  select runs.status, runs.body from runs
  where runs.tenant_id = $1 and runs.session_id = $2 and runs.run_id = $4::text
  limit 1
) r on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)

-- name: list_runs  index: session_heads_pkey runs_by_status
-- Runs with the statuses $4, after $5, at most $6; with $7 also those that rewinds have hidden. `found` counts up to $6 + 1. No row: no session; one row without
-- place: no runs.
select h.version, h.lease_expire_time, m.place, m.status, m.body, m.found
from session_heads h
left join lateral (
  select newest.*, count(*) over () as found from (
    select r.place, r.status, r.body
    from unnest((select $4::smallint[])) as s (status)
    cross join lateral (
      select runs.place, runs.status, runs.body from runs
      where runs.tenant_id = $1 collate "POSIX" and runs.session_id = $2 collate "POSIX" and runs.status = s.status
        and runs.place < $5 and ($7::boolean or (h.rewound @> runs.place) is not true)
      order by runs.place desc
      limit $6::bigint + 1
    ) r
    order by r.place desc
    limit $6::bigint + 1
  ) newest
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.place desc

-- name: get_metrics  index: session_heads_pkey run_figures_pkey
select h.version, h.core, coalesce(f.figures, '') as figures
from session_heads h
left join lateral (
  select run_figures.figures from run_figures
  where run_figures.tenant_id = $1 and run_figures.session_id = $2
  limit 1
) f on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)

-- name: get_tool_call  index: session_heads_pkey tool_calls_pkey events_pkey
select h.version, t.body, requested.content as arguments, ended.content as result
from session_heads h
left join lateral (
  select * from tool_calls
  where tool_calls.tenant_id = $1 and tool_calls.session_id = $2 and tool_calls.tool_call_id = $4::text
  limit 1
) t on true
left join lateral (
  select events.content from events
  where events.tenant_id = $1 and events.seq = t.seq
    and events.session_id = case when t.inherited then log_of($1, $2, t.seq) else $2 end
  limit 1
) requested on true
left join lateral (
  select events.content from events
  where events.tenant_id = $1 and events.seq = t.result_seq
    and events.session_id = case when t.inherited then log_of($1, $2, t.result_seq) else $2 end
  limit 1
) ended on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)

-- name: list_tool_calls  index: session_heads_pkey tool_calls_by_status events_pkey
-- Tool calls with the statuses $4 and seq < $5, at most $6 of them and $7 bytes; with $8 also those that rewinds have
-- hidden. Reading sizes does not fetch values
-- stored out of line. `found` counts up to $6 + 1. No row: no session; one row without seq: no calls.
select h.version, m.seq, m.body, m.arguments, m.result, m.found
from session_heads h
left join lateral (
  select sized.* from (
    select page.*, row_number() over downwards as place,
      sum(octet_length(page.body) + coalesce(octet_length(page.arguments), 0) + coalesce(octet_length(page.result), 0))
        over downwards as bytes,
      count(*) over () as found
    from (
      select newest.seq, newest.body, requested.content as arguments, ended.content as result
      from (
        select t.seq, t.result_seq, t.body, t.inherited
        from unnest((select $4::smallint[])) as s (status)
        cross join lateral (
          select * from tool_calls
          where tool_calls.tenant_id = $1 collate "POSIX" and tool_calls.session_id = $2 collate "POSIX"
            and tool_calls.status = s.status and tool_calls.seq < $5
            and ($8::boolean or (h.rewound @> tool_calls.seq) is not true)
          order by tool_calls.seq desc
          limit $6::bigint + 1
        ) t
        order by t.seq desc
        limit $6::bigint + 1
      ) newest
      left join lateral (
        select events.content from events
        where events.tenant_id = $1 and events.seq = newest.seq
          and events.session_id = case when newest.inherited then log_of($1, $2, newest.seq) else $2 end
        limit 1
      ) requested on true
      left join lateral (
        select events.content from events
        where events.tenant_id = $1 and events.seq = newest.result_seq
          and events.session_id = case when newest.inherited then log_of($1, $2, newest.result_seq) else $2 end
        limit 1
      ) ended on true
    ) page
    window downwards as (order by page.seq desc rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq desc

-- name: list_tool_calls_of_run  index: session_heads_pkey tool_calls_by_run events_pkey
-- As list_tool_calls, for the run $9.
select h.version, m.seq, m.body, m.arguments, m.result, m.found
from session_heads h
left join lateral (
  select sized.* from (
    select page.*, row_number() over downwards as place,
      sum(octet_length(page.body) + coalesce(octet_length(page.arguments), 0) + coalesce(octet_length(page.result), 0))
        over downwards as bytes,
      count(*) over () as found
    from (
      select newest.seq, newest.body, requested.content as arguments, ended.content as result
      from (
        select t.seq, t.result_seq, t.body, t.inherited
        from tool_calls t
        where t.tenant_id = $1 collate "POSIX" and t.session_id = $2 collate "POSIX" and t.run_id = $9::text
          and t.run_id <> '' and t.seq < $5 and t.status = any ($4::smallint[])
          and ($8::boolean or (h.rewound @> t.seq) is not true)
        order by t.seq desc
        limit $6::bigint + 1
      ) newest
      left join lateral (
        select events.content from events
        where events.tenant_id = $1 and events.seq = newest.seq
          and events.session_id = case when newest.inherited then log_of($1, $2, newest.seq) else $2 end
        limit 1
      ) requested on true
      left join lateral (
        select events.content from events
        where events.tenant_id = $1 and events.seq = newest.result_seq
          and events.session_id = case when newest.inherited then log_of($1, $2, newest.result_seq) else $2 end
        limit 1
      ) ended on true
    ) page
    window downwards as (order by page.seq desc rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq desc

-- name: list_requested  index: session_heads_pkey tool_calls_by_status
-- Of each range of seq, above $4 and at most $5, the first $7 tool calls, whose statuses are any of $6. Of all of them the
-- newest ones, at most $8 bytes. No row: no session; one row without body: no calls.
select h.version, m.body
from session_heads h
left join lateral (
  select sized.* from (
    select t.seq, t.body, sum(octet_length(t.body)) over (order by t.seq desc rows unbounded preceding) as bytes
    from unnest((select $4::bigint[]), (select $5::bigint[])) as k (after, until)
    cross join lateral (
      select r.seq, r.body
      from unnest((select $6::smallint[])) as s (status)
      cross join lateral (
        select tool_calls.seq, tool_calls.body from tool_calls
        where tool_calls.tenant_id = $1 collate "POSIX" and tool_calls.session_id = $2 collate "POSIX"
          and tool_calls.status = s.status and tool_calls.seq > k.after and tool_calls.seq <= k.until
        order by tool_calls.seq
        limit $7::bigint
      ) r
      order by r.seq
      limit $7::bigint
    ) t
  ) sized
  where sized.bytes <= $8::bigint
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq

-- name: list_pending  index: tool_calls_pending events_pkey
-- Pending calls of the tenant $1 after ($2, $3, $4), at most $5 of them and $6 bytes. They have no results yet. Those
-- that have expired are left out: the sweeper is about to end them.
select sized.* from (
  select page.*, row_number() over upwards as place,
    sum(octet_length(page.body) + coalesce(octet_length(page.arguments), 0)) over upwards as bytes,
    count(*) over () as found
  from (
    select oldest.*, requested.content as arguments
    from (
      select t.create_time, t.session_id, t.seq, t.body
      from tool_calls t
      where t.tenant_id = $1 and t.awaits_approval
        and (t.create_time, t.session_id, t.seq) > ($2::timestamptz, $3::text, $4::bigint)
        and (t.expire_time is null or t.expire_time > now())
      order by t.create_time, t.session_id, t.seq
      limit $5::bigint + 1
    ) oldest
    left join lateral (
      select events.content from events
      where events.tenant_id = $1 and events.session_id = oldest.session_id and events.seq = oldest.seq
      limit 1
    ) requested on true
  ) page
  window upwards as (order by page.create_time, page.session_id, page.seq rows unbounded preceding)
) sized
where sized.place <= $5 and (sized.place = 1 or sized.bytes <= $6::bigint)
order by sized.place

-- name: list_pending_of_user  index: tool_calls_pending_by_user events_pkey
-- As list_pending, for the user $7.
select sized.* from (
  select page.*, row_number() over upwards as place,
    sum(octet_length(page.body) + coalesce(octet_length(page.arguments), 0)) over upwards as bytes,
    count(*) over () as found
  from (
    select oldest.*, requested.content as arguments
    from (
      select t.create_time, t.session_id, t.seq, t.body
      from tool_calls t
      where t.tenant_id = $1 and t.awaits_approval and t.user_id = $7::text and t.user_id <> ''
        and (t.create_time, t.session_id, t.seq) > ($2::timestamptz, $3::text, $4::bigint)
        and (t.expire_time is null or t.expire_time > now())
      order by t.create_time, t.session_id, t.seq
      limit $5::bigint + 1
    ) oldest
    left join lateral (
      select events.content from events
      where events.tenant_id = $1 and events.session_id = oldest.session_id and events.seq = oldest.seq
      limit 1
    ) requested on true
  ) page
  window upwards as (order by page.create_time, page.session_id, page.seq rows unbounded preceding)
) sized
where sized.place <= $5 and (sized.place = 1 or sized.bytes <= $6::bigint)
order by sized.place
