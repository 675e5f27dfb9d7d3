-- Counters of usage (store/usage.py). schema.sql explains "POSIX" and the columns.

-- name: take_counting_lease
-- A row: this server counts, for so many seconds.
insert into usage_lease as l (holder, expire_time)
values ($1, clock_timestamp() + make_interval(secs => $2))
on conflict (one) do update
set holder = excluded.holder, expire_time = excluded.expire_time
where l.holder = $1 or l.expire_time < clock_timestamp()
returning holder

-- name: feeds_uncounted  index: events_feed usage_feeds_pkey
-- Tenants with events behind the place up to which they are counted, and that place. One probe for each tenant finds its
-- last transaction.
with {ends_of_feeds}
select ends.tenant_id, coalesce(f.commit_xid, '0'), coalesce(f.session_id, ''), coalesce(f.seq, 0)
from ends
left join lateral (
  select * from usage_feeds where usage_feeds.tenant_id = ends.tenant_id collate "C" limit 1
) f on true
where (
    f.commit_xid is null
    or ends.newest > f.commit_xid
    or ends.newest = f.commit_xid and exists (
      select from events e
      where e.tenant_id = ends.tenant_id collate "POSIX" and e.commit_xid = f.commit_xid
        and (e.session_id, e.seq) > (f.session_id, f.seq)
    )
  )
  and not lives_elsewhere(ends.tenant_id collate "C")
order by ends.tenant_id

-- name: events_to_count  index: events_feed session_heads_pkey sessions_pkey
-- At most $5 events and $6 bytes after ($2, $3, $4), up to the barrier, as read_feed has them (log.sql explains it).
-- `found` counts up to $5 + 1. Only what counts has a body, and only a creation its head.
select m.found, m.commit_xid, m.session_id, m.seq, m.type, m.create_time, case when m.type = 1 then m.head end as head,
  case when m.counts then m.body end as body, h.user_id, s.agent_id
from (
  select page.*, row_number() over onwards as place, count(*) over () as found,
    sum(case when page.counts then octet_length(page.body) + octet_length(page.head) else 0 end) over onwards as bytes
  from (
    select nearest.*, nearest.type in (1, 10, 20, 32, 33, 34, 40, 80) as counts from (
      select e.tenant_id collate "POSIX" as tenant_id, e.commit_xid, e.session_id, e.seq, abs(e.type) as type,
        e.create_time, e.head, e.body
      from events e
      where (e.tenant_id collate "POSIX", e.commit_xid) >= ($1, greatest($2::xid8, '1'))
        and (e.tenant_id collate "POSIX", e.commit_xid) < ($1, (
          select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + shift)::text::xid8 from feed_order
        ))
        and (e.commit_xid, e.session_id, e.seq) > ($2::xid8, $3::text, $4::bigint)
      order by e.tenant_id collate "POSIX", e.commit_xid, e.session_id, e.seq
      limit 1001
    ) nearest
    order by nearest.tenant_id, nearest.commit_xid, nearest.session_id, nearest.seq
    limit $5::bigint + 1
  ) page
  window onwards as (
    order by page.tenant_id, page.commit_xid, page.session_id, page.seq rows unbounded preceding
  )
) m
left join lateral (
  select user_id from session_heads
  where session_heads.tenant_id = $1 and session_heads.session_id = m.session_id
  limit 1
) h on true
left join lateral (
  select agent_id from sessions
  where sessions.tenant_id = $1 and sessions.session_id = m.session_id
  limit 1
) s on true
where m.place <= $5 and (m.place = 1 or m.bytes <= $6::bigint)
order by m.place

-- name: move_counted_place
-- A row: the tenant's place was $2 to $4, or it had none, and is $5 to $7 now.
insert into usage_feeds as f (tenant_id, commit_xid, session_id, seq)
select $1, $5::xid8, $6, $7 where not lives_elsewhere($1)
on conflict (tenant_id) do update
set commit_xid = excluded.commit_xid, session_id = excluded.session_id, seq = excluded.seq
where (f.commit_xid, f.session_id, f.seq) = ($2::xid8, $3::text, $4::bigint)
returning true

-- name: take_remains  index: usage_remains_pkey
-- Takes what remains of deleted events up to the place $2 to $4.
delete from usage_remains
where tenant_id = $1 and (commit_xid, session_id, seq) <= ($2::xid8, $3::text, $4::bigint)
returning commit_xid, session_id, seq, day, user_id, agent_id, model, session_count, message_count, run_count,
  tool_call_count, input_tokens, output_tokens, total_tokens, reasoning_tokens, cached_tokens

-- name: runs_of  index: runs_pkey
select k.place, r.body
from unnest((select $2::text[]), (select $3::text[])) with ordinality as k (session_id, run_id, place)
cross join lateral (
  select body from runs
  where runs.tenant_id = $1 and runs.session_id = k.session_id and runs.run_id = k.run_id
  limit 1
) r

-- name: add_usage  index: usage_counters_pkey
insert into usage_counters as c (tenant_id, by_user, user_id, day, agent_id, model, session_count, message_count,
  run_count, tool_call_count, input_tokens, output_tokens, total_tokens, reasoning_tokens, cached_tokens)
select $1, k.* from unnest($2::boolean[], $3::text[], $4::date[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
  $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[]) as k
on conflict (tenant_id, by_user, user_id, day, agent_id, model) do update
set session_count = c.session_count + excluded.session_count, message_count = c.message_count + excluded.message_count,
  run_count = c.run_count + excluded.run_count, tool_call_count = c.tool_call_count + excluded.tool_call_count,
  input_tokens = least(c.input_tokens::numeric + excluded.input_tokens, 9223372036854775807),
  output_tokens = least(c.output_tokens::numeric + excluded.output_tokens, 9223372036854775807),
  total_tokens = least(c.total_tokens::numeric + excluded.total_tokens, 9223372036854775807),
  reasoning_tokens = least(c.reasoning_tokens::numeric + excluded.reasoning_tokens, 9223372036854775807),
  cached_tokens = least(c.cached_tokens::numeric + excluded.cached_tokens, 9223372036854775807)

-- name: find_uncounted  index: usage_feeds_pkey session_heads_pkey events_pkey
-- Events that count and are not counted yet, of a session that is to be deleted: at most $4 with seq above $3, within $5
-- bytes, but at least one. Nothing where the session's last event is counted. 1 ... 80 are the types of domain/usage.
select sized.session_id, sized.commit_xid, sized.seq, sized.type, sized.create_time, sized.head, sized.body
from (
  select page.*, row_number() over upwards as place,
    sum(octet_length(page.head) + octet_length(page.body)) over upwards as bytes
  from (
    select e.session_id, e.commit_xid, e.seq, abs(e.type) as type, e.create_time, e.head, e.body
    from session_heads h
    left join usage_feeds f on f.tenant_id = h.tenant_id
    cross join lateral (
      select * from events
      where events.tenant_id = h.tenant_id and events.session_id = h.session_id and events.seq > $3
        and abs(events.type) in (1, 10, 20, 32, 33, 34, 40, 80)
        and (f.commit_xid is null
          or (events.commit_xid, events.session_id, events.seq) > (f.commit_xid, f.session_id, f.seq))
      order by events.tenant_id, events.session_id, events.seq
      limit $4
    ) e
    where h.tenant_id = $1 and h.session_id = $2
      and (f.commit_xid is null or h.commit_xid is null or h.commit_xid >= f.commit_xid)
  ) page
  window upwards as (order by page.seq rows unbounded preceding)
) sized
where sized.place = 1 or sized.bytes <= $5::bigint
order by sized.seq

-- name: write_remains
-- $2: commit_xid; null: that of this transaction.
insert into usage_remains (tenant_id, commit_xid, session_id, seq, day, user_id, agent_id, model, session_count,
  message_count, run_count, tool_call_count, input_tokens, output_tokens, total_tokens, reasoning_tokens, cached_tokens)
select k.tenant_id, coalesce(
    k.commit_xid::text::xid8, (select (pg_current_xact_id()::text::bigint + shift)::text::xid8 from feed_order)
  ), k.session_id, k.seq, k.day, k.user_id, k.agent_id, k.model, k.session_count, k.message_count, k.run_count,
  k.tool_call_count, k.input_tokens, k.output_tokens, k.total_tokens, k.reasoning_tokens, k.cached_tokens
from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::date[], $6::text[], $7::text[], $8::text[],
  $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
  $16::bigint[], $17::bigint[]) as k (tenant_id, commit_xid, session_id, seq, day, user_id, agent_id, model,
  session_count, message_count, run_count, tool_call_count, input_tokens, output_tokens, total_tokens,
  reasoning_tokens, cached_tokens)
on conflict (tenant_id, commit_xid, session_id, seq, model) do nothing

-- name: lock_counted_place  index: usage_feeds_pkey
-- Waits for a transaction that counts, and keeps others away.
select 1 from usage_feeds where tenant_id = $1 for update

-- name: forget_user_of_remains  index: usage_remains_pkey
update usage_remains set user_id = null where tenant_id = $1 and user_id = $2

-- name: erase_usage  index: usage_counters_pkey
delete from usage_counters where tenant_id = $1 and by_user and user_id = $2

-- name: counted_until  index: usage_feeds_pkey events_feed
-- When the first event was made that is not counted yet; now, if all are.
select coalesce((
  select e.create_time from events e
  where (e.tenant_id collate "POSIX", e.commit_xid) >= ($1, greatest(coalesce(f.commit_xid, '1'), '1'))
    and e.tenant_id = $1 collate "POSIX"
    and (f.commit_xid is null or (e.commit_xid, e.session_id, e.seq) > (f.commit_xid, f.session_id, f.seq))
  order by e.tenant_id collate "POSIX", e.commit_xid
  limit 1
), clock_timestamp())
from (select 1) one left join usage_feeds f on f.tenant_id = $1
