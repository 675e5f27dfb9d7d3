-- Logs, as streams read them. Streams rely on answers of the primary, so the first row of each statement says whether a
-- standby has answered, which may lag. schema.sql explains "POSIX" at the indexes of events; write.sql explains
-- "(select $1)". Times are those of the statement's beginning: it sees everything committed before then.

-- name: log_heads  index: session_heads_pkey
select 0::bigint as place, null::bigint as version, null::boolean as deleted, pg_is_in_recovery() as standby,
  pg_postmaster_start_time() as started, now() as read_time,
  array(select xip::text::bigint from pg_snapshot_xip(pg_current_snapshot()) as xip) as running
union all
select k.place, h.version, h.delete_time is not null, null, null, null, null
from unnest((select $1::text[]), (select $2::text[])) with ordinality as k (tenant_id, session_id, place)
cross join lateral (
  select session_heads.version, session_heads.delete_time from session_heads
  where session_heads.tenant_id = k.tenant_id and session_heads.session_id = k.session_id
  limit 1
) h

-- name: read_log  index: session_heads_pkey events_pkey
-- The event at $3, and events with seq > $3, at most $4 of them and $5 bytes. The final event (type 9) of a deleted
-- session whose id another one has is left out, unless it is at $3. A row without a version: no session;
-- without a seq: no events. The constant limit is the largest that callers request; with it, the planner avoids a sort.
select server.standby, h.version, h.deleted, h.user_id, h.fork_seq, m.seq, m.type, m.head, m.body, m.content
from (select pg_is_in_recovery() as standby) server
left join lateral (
  select version, delete_time is not null as deleted, user_id, fork_seq from session_heads
  where tenant_id = $1 and session_id = $2
  limit 1
) h on true
left join lateral (
  select sized.* from (
    select page.*, count(*) filter (where page.seq > $3) over upwards as place,
      sum(octet_length(page.head) + octet_length(page.body) + coalesce(octet_length(page.content), 0))
        filter (where page.seq > $3) over upwards as bytes
    from (
      select nearest.* from (
        select e.seq, abs(e.type) as type, e.head, e.body, e.content from events e
        where e.tenant_id = $1 and e.session_id = $2 and e.seq >= case when h.deleted then greatest($3, h.version) else $3 end
          and (e.type <> 9 or h.deleted or e.seq = $3)
        order by e.seq
        limit 1001
      ) nearest
      order by nearest.seq
      limit $4::bigint + 1
    ) page
    window upwards as (order by page.seq rows unbounded preceding)
  ) sized
  where sized.place <= $4 and (sized.place <= 1 or sized.bytes <= $5::bigint)
) m on true
order by m.seq

-- name: read_feed  index: events_feed session_heads_pkey sessions_pkey
-- At most $5 events and $6 bytes after ($2, $3, $4), up to the barrier: every transaction below it has ended, so no event
-- will appear there later. `found` counts up to $5 + 1. read_log explains the constant limit. The bounds compare rows
-- instead of "tenant_id = $1" to hide from the planner how few events a tenant has on average: it would otherwise plan to
-- sort them all, and a tenant may have millions. Only the first row has `running`, the transactions in progress.
select server.standby, server.started, server.read_time, server.last_xid >= server.barrier as pending,
  server.last_xid::text::bigint >= pg_snapshot_xmax(server.snapshot)::text::bigint + server.shift as impossible,
  m.found, m.commit_xid, m.session_id, m.seq, m.type, m.head, m.body, m.content, m.writer, h.user_id, s.agent_id,
  s.labels,
  case when coalesce(m.place, 1) = 1
    then array(select xip::text::bigint from pg_snapshot_xip(server.snapshot) as xip) end as running
from (
  select pg_is_in_recovery() as standby, pg_postmaster_start_time() as started, now() as read_time,
    pg_current_snapshot() as snapshot, o.shift,
    (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + o.shift)::text::xid8 as barrier, (
      select e.commit_xid from events e
      where e.tenant_id = $1 collate "POSIX"
      order by e.commit_xid desc
      limit 1
    ) as last_xid
  from feed_order o
) server
left join lateral (
  select sized.* from (
    select page.*, row_number() over onwards as place, count(*) over () as found,
      sum(octet_length(page.head) + octet_length(page.body) + coalesce(octet_length(page.content), 0)) over onwards
        as bytes
    from (
      select nearest.* from (
        select e.tenant_id collate "POSIX" as tenant_id, e.commit_xid, e.session_id, e.seq, abs(e.type) as type, e.head,
          e.body, e.content, e.xmin::text::bigint as writer
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
  ) sized
  where sized.place <= $5 and (sized.place = 1 or sized.bytes <= $6::bigint)
) m on true
left join lateral (
  select user_id from session_heads
  where tenant_id = $1 and session_id = m.session_id
  limit 1
) h on true
left join lateral (
  select agent_id, labels from sessions
  where tenant_id = $1 and session_id = m.session_id
  limit 1
) s on true
order by m.commit_xid, m.session_id, m.seq

-- name: feed_end  index: events_feed
-- The last event of each of the last $2 transactions below the barrier, descending.
with recursive ends as (
  select 0 as place, (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + o.shift)::text::xid8 as commit_xid,
    ''::text collate "C" as session_id, 0::bigint as seq, ''::bytea as head, (
      select e.commit_xid::text::bigint from events e
      where e.tenant_id = $1 collate "POSIX"
      order by e.commit_xid desc
      limit 1
    ) >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint + o.shift as impossible
  from feed_order o
  union all
  select ends.place + 1, e.commit_xid, e.session_id, e.seq, e.head, null
  from ends
  cross join lateral (
    select events.commit_xid, events.session_id, events.seq, events.head from events
    where events.tenant_id = $1 collate "POSIX" and events.commit_xid < ends.commit_xid and events.commit_xid > '0'
    order by events.commit_xid desc, events.session_id desc, events.seq desc
    limit 1
  ) e
  where ends.place < $2::integer
)
select pg_is_in_recovery() as standby, impossible, commit_xid, session_id, seq, head from ends
order by place

-- name: trace  index: session_heads_pkey events_pkey
-- For each delivered event: the state of its session, and the heads of the event now at its seq, of the session's last
-- event and of its first.
select 0::bigint as place, null::bigint as version, null::boolean as deleted, null::bytea as here, null::bytea as final,
  null::bytea as first, null::bigint as first_seq, pg_is_in_recovery() as standby, now() as read_time
union all
select k.place, h.version, h.delete_time is not null, here.head, final.head, first.head, first.seq, null, null
from unnest((select $2::text[]), (select $3::bigint[])) with ordinality as k (session_id, seq, place)
cross join lateral (
  select session_heads.version, session_heads.delete_time from session_heads
  where session_heads.tenant_id = $1 and session_heads.session_id = k.session_id
  limit 1
) h
left join lateral (
  select events.head from events
  where events.tenant_id = $1 and events.session_id = k.session_id and events.seq = k.seq
  limit 1
) here on true
left join lateral (
  select events.head from events
  where events.tenant_id = $1 and events.session_id = k.session_id and events.seq = h.version
  limit 1
) final on true
left join lateral (
  select events.seq, events.head from events
  where events.tenant_id = $1 and events.session_id = k.session_id
  order by events.seq
  limit 1
) first on true
