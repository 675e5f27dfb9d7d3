-- Statements that change the log. A batch runs them in this order within one transaction.
-- Look-ups probe an index for each key: "cross join lateral (... limit 1)" leaves the planner no other choice.
-- "(select $1)" hides the lengths of arrays from the planner, which would otherwise replan every call with short arrays.
-- schema.sql explains "POSIX" at the indexes of events.

-- name: begin
-- It does not say "read write", so that a database that its operator has made read-only stays read-only.
begin isolation level read committed

-- name: lock_heads  index: session_heads_pkey
-- Locks rows in the order of the arrays; all writers sort by key. Waits for other holders of a row, then reads what they
-- have committed. A row of another user than the command's counts as missing: a lock on it would show in response times.
select k.place, h.version, h.user_id, h.core, h.limits, h.content_version, h.delete_time is not null as deleted,
  h.lease_expire_time, h.content_sizes, h.fork_seq, h.forked
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, user_id, place)
cross join lateral (
  select * from session_heads
  where session_heads.tenant_id = k.tenant_id and session_heads.session_id = k.session_id
    and (k.user_id = '' or session_heads.user_id = k.user_id)
  for update
) h

-- name: lock_free_heads  index: session_heads_pkey
-- As lock_heads, but skips locked rows instead of waiting for them.
select k.place, h.version, h.user_id, h.core, h.limits, h.content_version, h.delete_time is not null as deleted,
  h.lease_expire_time, h.content_sizes, h.fork_seq, h.forked
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, user_id, place)
cross join lateral (
  select * from session_heads
  where session_heads.tenant_id = k.tenant_id and session_heads.session_id = k.session_id
    and (k.user_id = '' or session_heads.user_id = k.user_id)
  for update skip locked
) h

-- name: present_heads  index: session_heads_pkey
-- Distinguishes a row that lock_free_heads skipped from one that does not exist.
select k.place
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, user_id, place)
cross join lateral (
  select 1 from session_heads
  where session_heads.tenant_id = k.tenant_id and session_heads.session_id = k.session_id
    and (k.user_id = '' or session_heads.user_id = k.user_id)
  limit 1
) h

-- name: lock_tenants
-- Counted creations of one tenant wait for each other. Locks are taken in the order of the hashes to avoid deadlocks.
select pg_advisory_xact_lock(k.hash)
from (select distinct hashtextextended(tenant_id, 7295) as hash from unnest($1::text[]) as t (tenant_id) order by 1) k

-- name: count_live  index: sessions_live
select k.place, (select count(*) from sessions s where s.tenant_id = k.tenant_id and s.status <> 4) as live
from unnest((select $1::text[])) with ordinality as k (tenant_id, place)

-- name: look_up  index: requests_pkey events_message_key
-- Must be a separate statement after lock_heads, whose snapshot is older than its locks: it would miss what the holder
-- of a lock committed while lock_heads waited. The row of kind 0 has homes_version in the place of first_seq: what
-- locks the tables to give a tenant another home (placement.sql) is over, or has not begun.
select 0 as kind, 0::bigint as place, clock_timestamp() as now,
  null::bytea as fingerprint, (select homes_version from placement) as first_seq, null::bigint as last_seq
union all
select 1, k.place, null, r.fingerprint, r.first_seq, r.last_seq
from unnest((select :request_tenant_id::text[]), (select :request_session_id::text[]), (select :request_id::text[]))
  with ordinality as k (tenant_id, session_id, request_id, place)
cross join lateral (
  select * from requests
  where requests.tenant_id = k.tenant_id and requests.session_id = k.session_id
    and requests.request_id = k.request_id
  limit 1
) r
union all
select 2, k.place, null, null, null, null
from unnest((select :message_tenant_id::text[]), (select :message_session_id::text[]), (select :message_id::text[]))
  with ordinality as k (tenant_id, session_id, message_id, place)
cross join lateral (
  select 1 from events
  where events.tenant_id = k.tenant_id collate "POSIX" and events.session_id = k.session_id collate "POSIX"
    and events.message_id = k.message_id
    and message_key(events.tenant_id, events.session_id, events.message_id)
      = message_key(k.tenant_id, k.session_id, k.message_id)
  limit 1
) e

-- name: find_messages  index: events_message_key
select k.place, e.seq, e.head, e.body
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, message_id, place)
cross join lateral (
  select * from events
  where events.tenant_id = k.tenant_id collate "POSIX" and events.session_id = k.session_id collate "POSIX"
    and events.message_id = k.message_id
    and message_key(events.tenant_id, events.session_id, events.message_id)
      = message_key(k.tenant_id, k.session_id, k.message_id)
  limit 1
) e

-- name: find_to_delete  index: events_messages events_message_key
-- The messages that deletions select, as many of each selection as fit into its bytes, but at least one: 1, the newest
-- ones; 2, those of a range; 3, the named ones. `found` counts all of the selection.
select 1 as kind, k.place as number, m.seq, m.head, m.body, m.found
from unnest((select :newest_tenant_id::text[]), (select :newest_session_id::text[]), (select :newest_count::bigint[]),
  (select :newest_bytes::bigint[])) with ordinality as k (tenant_id, session_id, count, bytes, place)
cross join lateral (
  select sized.* from (
    select page.*, row_number() over downwards as place, sum(octet_length(page.body)) over downwards as bytes,
      count(*) over () as found
    from (
      select e.* from (
        select v.part from session_heads h
        cross join lateral unnest('{[1,)}'::int8multirange - coalesce(h.rewound, '{}')) as v (part)
        where h.tenant_id = k.tenant_id and h.session_id = k.session_id
        order by lower(v.part) desc
        offset 0
      ) visible
      cross join lateral (
        select events.seq, events.head, events.body from events
        where events.tenant_id = k.tenant_id collate "POSIX" and events.session_id = k.session_id collate "POSIX"
          and events.type = 20 and events.seq >= lower(visible.part)
          and events.seq < coalesce(upper(visible.part), 9223372036854775807)
        order by events.seq desc
        limit k.count
      ) e
      limit k.count
    ) page
    window downwards as (order by page.seq desc rows unbounded preceding)
  ) sized
  where sized.place = 1 or sized.bytes <= k.bytes
) m
union all
select 2, k.place, m.seq, m.head, m.body, m.found
from unnest((select :range_tenant_id::text[]), (select :range_session_id::text[]), (select :range_from_seq::bigint[]),
  (select :range_to_seq::bigint[]), (select :range_count::bigint[]), (select :range_bytes::bigint[]))
  with ordinality as k (tenant_id, session_id, from_seq, to_seq, count, bytes, place)
cross join lateral (
  select sized.* from (
    select page.*, row_number() over upwards as place, sum(octet_length(page.body)) over upwards as bytes,
      count(*) over () as found
    from (
      select e.seq, e.head, e.body from events e
      where e.tenant_id = k.tenant_id collate "POSIX" and e.session_id = k.session_id collate "POSIX" and e.type = 20
        and e.seq >= k.from_seq and e.seq <= k.to_seq
      order by e.seq
      limit k.count
    ) page
    window upwards as (order by page.seq rows unbounded preceding)
  ) sized
  where sized.place = 1 or sized.bytes <= k.bytes
) m
union all
select 3, m.number, m.seq, m.head, m.body, m.found
from (
  select k.number, e.seq, e.head, e.body, k.most, row_number() over given as place,
    sum(octet_length(e.body)) over given as bytes, count(*) over (partition by k.number) as found
  from unnest((select :named_tenant_id::text[]), (select :named_session_id::text[]),
    (select :named_message_id::text[]), (select :named_number::bigint[]), (select :named_bytes::bigint[]))
    with ordinality as k (tenant_id, session_id, message_id, number, most, place)
  cross join lateral (
    select events.seq, events.head, events.body from events
    where events.tenant_id = k.tenant_id collate "POSIX" and events.session_id = k.session_id collate "POSIX"
      and events.message_id = k.message_id
      and message_key(events.tenant_id, events.session_id, events.message_id)
        = message_key(k.tenant_id, k.session_id, k.message_id)
    limit 1
  ) e
  window given as (partition by k.number order by k.place rows unbounded preceding)
) m
where m.place = 1 or m.bytes <= m.most

-- name: find_repeating  index: events_pkey
-- Events of the log that may repeat the name $5, after the message at $3. Types below 20 have a Session; others may have
-- the session's core beside their body.
select seq, case when type between 1 and 19 then body end as body, core from events
where tenant_id = $1 and session_id = $2 and seq > $3 and seq <= $4
  and (type between 1 and 19 and position($5::bytea in body) > 0 or position($5::bytea in core) > 0)
order by seq
limit $6

-- name: write_repeating  index: events_pkey
update events e
set body = coalesce(k.body, e.body), core = coalesce(k.core, e.core)
from unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bytea[])
  as k (tenant_id, session_id, seq, body, core)
where e.tenant_id = k.tenant_id and e.session_id = k.session_id and e.seq = k.seq

-- name: find_answers  index: requests_pkey
select k.place, r.answer
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, request_id, place)
cross join lateral (
  select requests.answer from requests
  where requests.tenant_id = k.tenant_id and requests.session_id = k.session_id
    and requests.request_id = k.request_id
  limit 1
) r
where r.answer is not null

-- name: find_contents  index: events_pkey
select k.place, e.content
from unnest((select $1::text[]), (select $2::text[]), (select $3::bigint[]))
  with ordinality as k (tenant_id, session_id, seq, place)
cross join lateral (
  select * from events
  where events.tenant_id = k.tenant_id and events.session_id = k.session_id and events.seq = k.seq
  limit 1
) e

-- name: find_session_contents  index: events_contents
-- The chain of a session's content at a version: the last whole content up to it, and the patches after that. A patch
-- begins with the byte 7 (domain/encoding.py), which is read without the rest of the value.
select k.place, array(
  select e.content from events e
  where e.tenant_id = k.tenant_id collate "POSIX" and e.session_id = k.session_id collate "POSIX"
    and e.type < 20 and e.content is not null and e.seq <= k.seq
    and e.seq >= (
      select w.seq from events w
      where w.tenant_id = k.tenant_id collate "POSIX" and w.session_id = k.session_id collate "POSIX"
        and w.type < 20 and w.content is not null and w.seq <= k.seq
        and substring(w.content from 1 for 1) <> '\x07'
      order by w.seq desc
      limit 1
    )
  order by e.seq
) as chain
from unnest((select :content_tenant_id::text[]), (select :content_session_id::text[]), (select :content_seq::bigint[]))
  with ordinality as k (tenant_id, session_id, seq, place)

-- name: find_replayed  index: events_pkey
select k.place, e.seq, abs(e.type) as type, e.create_time, e.message_id, e.body, e.head
from unnest((select $1::text[]), (select $2::text[]), (select $3::bigint[]), (select $4::bigint[])) with ordinality
  as k (tenant_id, session_id, first_seq, last_seq, place)
cross join lateral (
  select * from events
  where events.tenant_id = k.tenant_id and events.session_id = k.session_id
    and events.seq between k.first_seq and k.last_seq
  order by events.seq
  offset 0
) e
order by k.place, e.seq

-- name: write_sessions
-- Heads of new sessions, and index rows. Fewer `created` than requested: another transaction has created one first; the
-- caller starts over.
with created as (
  insert into session_heads (tenant_id, session_id, version, content_version, update_time, expire_check_time,
    delete_time, user_id, core, limits, lease_expire_time, content_sizes, update_period, commit_xid)
  select *, update_period(update_time),
    (select (pg_current_xact_id()::text::bigint + shift)::text::xid8 from feed_order)
  from unnest(:head_tenant_id::text[], :head_session_id::text[], :head_version::bigint[],
    :head_content_version::bigint[], :head_update_time::timestamptz[], :head_expire_check_time::timestamptz[],
    :head_delete_time::timestamptz[], :head_user_id::text[], :head_core::bytea[], :head_limits::bytea[],
    :head_lease_expire_time::timestamptz[], :head_content_sizes::bytea[])
    as h (tenant_id, session_id, version, content_version, update_time, expire_check_time, delete_time, user_id, core,
      limits, lease_expire_time, content_sizes)
  on conflict do nothing
  returning 1
), listed as (
  insert into sessions as old (tenant_id, session_id, type, status, create_time, agent_id, team_id, workflow_id,
    user_id, name, name_folded, labels, metadata)
  select * from unnest(:listed_tenant_id::text[], :listed_session_id::text[], :listed_type::smallint[],
    :listed_status::smallint[], :listed_create_time::timestamptz[], :listed_agent_id::text[],
    :listed_team_id::text[], :listed_workflow_id::text[], :listed_user_id::text[], :listed_name::text[],
    :listed_name_folded::text[], :listed_labels::jsonb[], :listed_metadata::jsonb[])
  where (select count(*) from created) = cardinality(:head_tenant_id)
  on conflict (tenant_id, session_id) do update
  set status = excluded.status, agent_id = excluded.agent_id, team_id = excluded.team_id,
    workflow_id = excluded.workflow_id, name = excluded.name, name_folded = excluded.name_folded,
    labels = excluded.labels, metadata = coalesce(excluded.metadata, old.metadata)
)
select count(*) as created from created

-- name: write_log
-- Heads of locked sessions, events, idempotency records. The upsert makes the planner probe the primary key, which an
-- update joined to arrays would not.
-- A transaction gets its id with its first lock, so one that waited for another may have the lower id and yet write
-- later. The feed is ordered by these ids, and a session's events must keep their order in it. So an event's commit_xid is
-- at least that of the session's last event. This neither delays nor hides an event, because it is never below the id of
-- its own transaction. feed_order.shift moves the ids of this cluster after those of the cluster that a dump came from.
with changed as (
  insert into session_heads as old (tenant_id, session_id, version, content_version, update_time, expire_check_time,
    delete_time, user_id, core, limits, lease_expire_time, content_sizes, update_period, commit_xid)
  select *, update_period(update_time),
    (select (pg_current_xact_id()::text::bigint + shift)::text::xid8 from feed_order)
  from unnest(:head_tenant_id::text[], :head_session_id::text[], :head_version::bigint[],
    :head_content_version::bigint[], :head_update_time::timestamptz[], :head_expire_check_time::timestamptz[],
    :head_delete_time::timestamptz[], :head_user_id::text[], :head_core::bytea[], :head_limits::bytea[],
    :head_lease_expire_time::timestamptz[], :head_content_sizes::bytea[])
    as h (tenant_id, session_id, version, content_version, update_time, expire_check_time, delete_time, user_id, core,
      limits, lease_expire_time, content_sizes)
  on conflict (tenant_id, session_id) do update
  set version = excluded.version, content_version = excluded.content_version, update_time = excluded.update_time,
    expire_check_time = case
      when excluded.expire_check_time is not null then least(old.expire_check_time, excluded.expire_check_time)
    end,
    delete_time = excluded.delete_time, core = excluded.core, limits = coalesce(excluded.limits, old.limits),
    lease_expire_time = excluded.lease_expire_time, content_sizes = excluded.content_sizes,
    update_period = excluded.update_period, commit_xid = greatest(old.commit_xid, excluded.commit_xid)
  returning tenant_id, session_id, commit_xid
), logged as (
  insert into events (tenant_id, session_id, seq, type, create_time, message_id, head, body, content, core, commit_xid)
  select e.*, coalesce(
    changed.commit_xid, (select (pg_current_xact_id()::text::bigint + shift)::text::xid8 from feed_order)
  )
  from unnest(:event_tenant_id::text[], :event_session_id::text[], :event_seq::bigint[], :event_type::smallint[],
    :event_create_time::timestamptz[], :event_message_id::text[], :event_head::bytea[], :event_body::bytea[],
    :event_content::bytea[], :event_core::bytea[])
    as e (tenant_id, session_id, seq, type, create_time, message_id, head, body, content, core)
  left join changed on changed.tenant_id = e.tenant_id and changed.session_id = e.session_id
)
insert into requests (tenant_id, session_id, request_id, fingerprint, first_seq, last_seq, answer, create_time)
select k.*, :now::timestamptz
from unnest(:request_tenant_id::text[], :request_session_id::text[], :request_request_id::text[],
  :request_fingerprint::bytea[], :request_first_seq::bigint[], :request_last_seq::bigint[],
  :request_answer::bytea[]) as k

-- name: read_heads  index: session_heads_pkey
-- Heads as they are, without locks, and the database's time. For tests of write_if_unchanged.
select clock_timestamp() as now, h.*
from (select) one left join lateral (
  select k.place, h.version, h.user_id, h.core, h.limits, h.content_version, h.delete_time is not null as deleted,
    h.lease_expire_time, h.content_sizes, h.fork_seq, h.forked
  from unnest((select $1::text[]), (select $2::text[])) with ordinality as k (tenant_id, session_id, place)
  cross join lateral (
    select * from session_heads
    where session_heads.tenant_id = k.tenant_id and session_heads.session_id = k.session_id and delete_time is null
    limit 1
  ) h
) h on true

-- name: write_if_unchanged  index: session_heads_pkey
-- A transaction of its own: appends to each session whose head is, once it is locked, what the append was decided on, and
-- says of each head that it could lock what came of it. The others stay as they are.
-- It locks before it compares, and compares what it has locked, whatever its snapshot shows. It waits for no row, so that
-- the time that it compares is that of the lock. Once a head is locked and compared, all its rows are written: the upsert
-- always finds it. homes_version and feed_order are read by a snapshot that is younger than the lock on the table, as in
-- look_up and write_log, which only "read committed" promises.
-- commit_xid: see write_log.
with found as materialized (
  select k.place, k.tenant_id, k.session_id, k.version, k.update_time, k.expire_check_time, k.core, h.user_id,
    h.content_version, h.now,
    greatest(h.commit_xid, (select (pg_current_xact_id()::text::bigint + shift)::text::xid8 from feed_order))
      as commit_xid,
    case
      when h.version <> k.known_version or h.core <> k.known_core
        or h.lease_expire_time is distinct from k.known_lease_expire_time then 'changed'
      when h.now not between :earliest::timestamptz and :latest::timestamptz then 'clock'
      when :homes_version::bigint <> (select homes_version from placement) then 'elsewhere'
      when current_setting('transaction_isolation') <> 'read committed' then 'isolation'
      else 'written'
    end as outcome
  from unnest((select :head_tenant_id::text[]), (select :head_session_id::text[]),
    (select :head_known_version::bigint[]), (select :head_known_core::bytea[]),
    (select :head_known_lease_expire_time::timestamptz[]), (select :head_version::bigint[]),
    (select :head_update_time::timestamptz[]), (select :head_expire_check_time::timestamptz[]),
    (select :head_core::bytea[])) with ordinality
    as k (tenant_id, session_id, known_version, known_core, known_lease_expire_time, version, update_time,
      expire_check_time, core, place)
  cross join lateral (
    select l.*, clock_timestamp() as now
    from (
      select s.version, s.core, s.lease_expire_time, s.user_id, s.content_version, s.commit_xid from session_heads s
      where s.tenant_id = k.tenant_id and s.session_id = k.session_id
      for update skip locked
    ) l
  ) h
), changed as (
  insert into session_heads as old (tenant_id, session_id, version, content_version, update_time, expire_check_time,
    user_id, core, update_period, commit_xid)
  select tenant_id, session_id, version, content_version, update_time, expire_check_time, user_id, core,
    update_period(update_time), commit_xid
  from found where outcome = 'written'
  on conflict (tenant_id, session_id) do update
  set version = excluded.version, update_time = excluded.update_time,
    expire_check_time = case
      when excluded.expire_check_time is not null then least(old.expire_check_time, excluded.expire_check_time)
    end,
    core = excluded.core, update_period = excluded.update_period, commit_xid = excluded.commit_xid
), logged as (
  insert into events (tenant_id, session_id, seq, type, create_time, message_id, head, body, core, commit_xid)
  select found.tenant_id, found.session_id, e.seq, e.type, e.create_time, e.message_id, e.head, e.body, e.core,
    found.commit_xid
  from unnest((select :event_place::bigint[]), (select :event_seq::bigint[]), (select :event_type::smallint[]),
    (select :event_create_time::timestamptz[]), (select :event_message_id::text[]), (select :event_head::bytea[]),
    (select :event_body::bytea[]), (select :event_core::bytea[]))
    as e (place, seq, type, create_time, message_id, head, body, core)
  join found on found.place = e.place and found.outcome = 'written'
), noted as (
  insert into requests (tenant_id, session_id, request_id, fingerprint, first_seq, last_seq, create_time)
  select found.tenant_id, found.session_id, r.request_id, r.fingerprint, r.first_seq, r.last_seq, :now::timestamptz
  from unnest((select :request_place::bigint[]), (select :request_request_id::text[]),
    (select :request_fingerprint::bytea[]), (select :request_first_seq::bigint[]), (select :request_last_seq::bigint[]))
    as r (place, request_id, fingerprint, first_seq, last_seq)
  join found on found.place = r.place and found.outcome = 'written'
)
select place, outcome, now from found

-- name: write_removals  index: events_pkey
-- Runs before write_log: a message of the batch may have the id of a removed one.
update events e
set type = -20, message_id = null, head = k.head, body = k.body
from unnest((select $1::text[]), (select $2::text[]), (select $3::bigint[]), (select $4::bytea[]),
  (select $5::bytea[])) as k (tenant_id, session_id, seq, head, body)
cross join lateral (
  select events.ctid as place from events
  where events.tenant_id = k.tenant_id and events.session_id = k.session_id and events.seq = k.seq
  limit 1
) stored
where e.ctid = stored.place

-- name: write_marks
insert into message_marks (tenant_id, session_id, mark, seq)
select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])

-- name: remove_marks  index: message_marks_pkey
delete from message_marks where ctid = any (array(
  select m.ctid
  from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]), (select $4::bigint[]))
    as k (tenant_id, session_id, mark, seq)
  cross join lateral (
    select message_marks.ctid from message_marks
    where message_marks.tenant_id = k.tenant_id and message_marks.session_id = k.session_id
      and message_marks.mark = k.mark and message_marks.seq = k.seq
    limit 1
  ) m
))

-- name: write_redactions  index: events_pkey
update events e
set head = k.head, body = k.body
from unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bytea[])
  as k (tenant_id, session_id, seq, head, body)
where e.tenant_id = k.tenant_id and e.session_id = k.session_id and e.seq = k.seq

-- name: write_deletions  index: sessions_pkey requests_pkey events_pkey runs_pkey tool_calls_pkey run_figures_pkey message_marks_pkey documents_pkey
-- Removes what a deletion removes besides the head, which stays as the tombstone. Executed before the batch's rows are
-- written, which may be of a session that takes the id anew. 4 is DOCUMENT_SCOPE_SESSION.
with keys as materialized (
  select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
    as k (tenant_id, session_id, final_seq, base_seq, kept_seq)
), unlisted as (
  delete from sessions where ctid = any (array(
    select s.ctid
    from keys k
    cross join lateral (
      select sessions.ctid from sessions
      where sessions.tenant_id = k.tenant_id and sessions.session_id = k.session_id
      limit 1
    ) s
  ))
), without_marks as (
  delete from message_marks where ctid = any (array(
    select m.ctid
    from keys k
    cross join lateral (
      select message_marks.ctid from message_marks
      where message_marks.tenant_id = k.tenant_id and message_marks.session_id = k.session_id
      offset 0
    ) m
  ))
), without_runs as (
  delete from runs where ctid = any (array(
    select r.ctid
    from keys k
    cross join lateral (
      select runs.ctid from runs
      where runs.tenant_id = k.tenant_id and runs.session_id = k.session_id
      offset 0
    ) r
  ))
), without_calls as (
  delete from tool_calls where ctid = any (array(
    select t.ctid
    from keys k
    cross join lateral (
      select tool_calls.ctid from tool_calls
      where tool_calls.tenant_id = k.tenant_id and tool_calls.session_id = k.session_id
      offset 0
    ) t
  ))
), without_figures as (
  delete from run_figures where ctid = any (array(
    select f.ctid
    from keys k
    cross join lateral (
      select run_figures.ctid from run_figures
      where run_figures.tenant_id = k.tenant_id and run_figures.session_id = k.session_id
      limit 1
    ) f
  ))
), without_documents as (
  update documents
  set delete_time = now(), expire_time = null, labels = '{}', body = '', value = ''
  where ctid = any (array(
    select d.ctid
    from keys k
    cross join lateral (
      select documents.ctid from documents
      where documents.tenant_id = k.tenant_id and documents.scope = 4 and documents.scope_id = k.session_id
        and documents.delete_time is null
      offset 0
    ) d
  ))
), forgotten as (
  delete from requests where ctid = any (array(
    select r.ctid
    from keys k
    cross join lateral (
      select requests.ctid from requests
      where requests.tenant_id = k.tenant_id and requests.session_id = k.session_id
        and requests.last_seq < k.final_seq and requests.first_seq > k.base_seq + 1
      offset 0
    ) r
  ))
)
delete from events where ctid = any (array(
  select e.ctid
  from keys k
  cross join lateral (
    select events.ctid from events
    where events.tenant_id = k.tenant_id and events.session_id = k.session_id and events.seq < k.final_seq
      and events.seq > k.kept_seq
    offset 0
  ) e
))
