-- Forks (docs/decisions/0047-forks.md). schema.sql explains the tables, log_of and fork_events; write.sql explains the form of
-- look-ups; read.sql the parameters $1 to $3.

-- name: list_of_fork  index: session_heads_pkey
-- As list_messages_ascending and _descending in read.sql, through all parts of a fork's log. $8: whether it descends. $9: 20
-- for messages, 80 for summaries, descending.
select h.version, m.seq, m.body, m.found, h.fork_seq
from session_heads h
left join lateral (
  select sized.* from (
    select page.seq, page.body, row_number() over onwards as place, sum(octet_length(page.body)) over onwards as bytes,
      count(*) over () as found
    from fork_events($1, $2, $9::smallint, $4, $5, $6::bigint + 1, $8) page
    window onwards as (order by case when $8::boolean then -page.seq else page.seq end rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by case when $8::boolean then -m.seq else m.seq end

-- part: visible_parts
-- The head of a session, and the parts of its log that are visible between $4 and $5, in the order of the list. What is
-- hidden are the places from each of $7 through that of $8; where these are null, what rewinds have hidden. $9: whether
-- the list descends.
with head as materialized (
  select h.version, h.fork_seq, h.rewound,
    case when $7::bigint[] is null then coalesce(h.rewound, '{}') else coalesce((
      select range_agg(int8range(k.first_seq, k.last_seq, '[]'))
      from unnest($7::bigint[], $8::bigint[]) as k (first_seq, last_seq)
    ), '{}') end as hidden
  from session_heads h
  where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
), parts as materialized (
  select q.log_id, lower(v.part) as first_seq, coalesce(upper(v.part), 9223372036854775807) as end_seq
  from head
  cross join lateral (
    select s.log_id, int8range(s.first_seq, s.last_seq, '[]') as span from session_segments s
    where s.tenant_id = $1 and s.session_id = $2 and head.fork_seq is not null
    union all
    select $2::text, int8range(coalesce(head.fork_seq, 0) + 1, null)
  ) q
  cross join lateral unnest(
    int8multirange(q.span * int8range(
      least($4::bigint, 9223372036854775805) + 1, greatest($5::bigint, least($4::bigint, 9223372036854775805) + 1)
    )) - head.hidden
  ) as v (part)
  order by case when $9::boolean then -lower(v.part) else lower(v.part) end
)

-- part: visible_page
select head.version, m.seq, m.body, m.found, head.fork_seq, head.rewound @> m.seq as hidden
from head
left join (
  select sized.* from (
    select page.seq, page.body, row_number() over onwards as place, sum(octet_length(page.body)) over onwards as bytes,
      count(*) over () as found
    from page
    window onwards as (order by case when $9::boolean then -page.seq else page.seq end rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $10::bigint)
) m on true
order by case when $9::boolean then -m.seq else m.seq end

-- name: visible_messages_ascending  index: session_heads_pkey events_messages
-- As list_messages_ascending in read.sql, through all visible parts of a log, at most $10 bytes. Each part is read in the
-- order of the parts, until there are enough messages: what is hidden is not read.
with {visible_parts}, page as (
  select e.* from parts
  cross join lateral (
    select events.seq, events.body from events
    where events.tenant_id = $1 collate "POSIX" and events.session_id = parts.log_id collate "POSIX" and events.type = 20
      and events.seq >= parts.first_seq and events.seq < parts.end_seq
    order by events.seq
    limit $6::bigint + 1
  ) e
  limit $6::bigint + 1
)
{visible_page}

-- name: visible_messages_descending  index: session_heads_pkey events_messages
with {visible_parts}, page as (
  select e.* from parts
  cross join lateral (
    select events.seq, events.body from events
    where events.tenant_id = $1 collate "POSIX" and events.session_id = parts.log_id collate "POSIX" and events.type = 20
      and events.seq >= parts.first_seq and events.seq < parts.end_seq
    order by events.seq desc
    limit $6::bigint + 1
  ) e
  limit $6::bigint + 1
)
{visible_page}

-- name: visible_summaries  index: session_heads_pkey events_summaries
with {visible_parts}, page as (
  select e.* from parts
  cross join lateral (
    select events.seq, events.body from events
    where events.tenant_id = $1 collate "POSIX" and events.session_id = parts.log_id collate "POSIX" and events.type = 80
      and events.seq >= parts.first_seq and events.seq < parts.end_seq
    order by events.seq desc
    limit $6::bigint + 1
  ) e
  limit $6::bigint + 1
)
{visible_page}

-- name: write_rewound  index: session_heads_pkey
-- What rewinds have hidden: the places from each of $3 through that of $4.
update session_heads h
set rewound = (
  select range_agg(int8range(k.first_seq, k.last_seq, '[]'))
  from unnest($3::bigint[], $4::bigint[]) as k (first_seq, last_seq)
)
where h.tenant_id = $1 and h.session_id = $2

-- name: get_message_of_fork  index: session_heads_pkey session_segments_pkey events_message_key
select h.version, e.body, h.rewound @> e.seq as hidden
from session_heads h
left join lateral (
  select m.seq, m.body from session_segments s
  cross join lateral (
    select events.seq, events.body from events
    where events.tenant_id = $1 collate "POSIX" and events.session_id = s.log_id collate "POSIX"
      and events.message_id = $4::text
      and message_key(events.tenant_id, events.session_id, events.message_id) = message_key($1, s.log_id, $4::text)
    limit 1
  ) m
  where s.tenant_id = $1 and s.session_id = $2 and m.seq between s.first_seq and s.last_seq
  limit 1
) e on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)

-- name: read_log_of_fork  index: session_heads_pkey
-- As read_log in log.sql.
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
    from fork_events($1, $2, 0::smallint, $3 - 1, 9223372036854775807, $4::bigint + 1, false) page
    window upwards as (order by page.seq rows unbounded preceding)
  ) sized
  where sized.place <= $4 and (sized.place <= 1 or sized.bytes <= $5::bigint)
) m on true
order by m.seq

-- part: chain_of_parts
whole as materialized (
  select max(e.seq) as seq
  from parts
  cross join lateral (
    select events.seq from events
    where events.tenant_id = $1 collate "POSIX" and events.session_id = parts.log_id collate "POSIX"
      and events.type < 20 and events.content is not null
      and events.seq >= parts.first_seq and events.seq <= parts.last_seq
      and substring(events.content from 1 for 1) <> '\x07'
    order by events.seq desc
    limit 1
  ) e
)
select array(
  select e.content
  from parts
  cross join lateral (
    select events.seq, events.content from events
    where events.tenant_id = $1 collate "POSIX" and events.session_id = parts.log_id collate "POSIX"
      and events.type < 20 and events.content is not null
      and events.seq >= greatest(parts.first_seq, (select seq from whole)) and events.seq <= parts.last_seq
    offset 0
  ) e
  order by e.seq
) as chain

-- name: get_shared_content  index: session_segments_pkey events_contents
-- The chain of the content at $3, which a fork shares; see find_session_contents in write.sql.
with parts as materialized (
  select s.log_id, s.first_seq, least(s.last_seq, $3) as last_seq from session_segments s
  where s.tenant_id = $1 and s.session_id = $2 and s.first_seq <= $3
), {chain_of_parts}

-- name: find_content  index: events_contents
-- The chain of the content at the end of these parts of logs.
with parts as materialized (
  select * from unnest((select $2::text[]), (select $3::bigint[]), (select $4::bigint[])) as k (log_id, first_seq, last_seq)
), {chain_of_parts}

-- name: list_forks  index: session_forks_by_parent session_heads_pkey
-- The forks of a session after ($4, $5), at most $6 + 1. No row: no session; one row without session_id: no forks.
select h.version, f.session_id, f.create_time, f.version as fork_version, f.core
from session_heads h
left join lateral (
  select k.session_id, k.create_time, c.version, c.core
  from session_forks k
  cross join lateral (
    select session_heads.version, session_heads.core from session_heads
    where session_heads.tenant_id = $1 and session_heads.session_id = k.session_id and delete_time is null
    limit 1
  ) c
  where k.tenant_id = $1 and k.parent_id = $2 and (k.create_time, k.session_id) > ($4::timestamptz, $5::text)
  order by k.create_time, k.session_id
  limit $6::bigint + 1
) f on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by f.create_time, f.session_id

-- name: lock_forks_shared
-- Held by whatever needs that no event moves to a hidden log, or goes: forks, and redactions of shared messages. Taken
-- after the heads are locked.
select pg_advisory_xact_lock_shared(hashtextextended($1, 7296))

-- name: lock_forks
select pg_advisory_xact_lock(hashtextextended($1, 7296))

-- name: find_segments  index: session_segments_pkey
select s.log_id, s.first_seq, s.last_seq from session_segments s
where s.tenant_id = $1 and s.session_id = $2
order by s.last_seq

-- name: find_inherited  index: session_segments_pkey events_message_key
select k.place, e.seq, e.head, e.body, e.log_id
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, message_id, place)
cross join lateral (
  select m.*, s.log_id from session_segments s
  cross join lateral (
    select events.seq, events.head, events.body from events
    where events.tenant_id = k.tenant_id collate "POSIX" and events.session_id = s.log_id collate "POSIX"
      and events.message_id = k.message_id
      and message_key(events.tenant_id, events.session_id, events.message_id)
        = message_key(k.tenant_id, s.log_id, k.message_id)
    limit 1
  ) m
  where s.tenant_id = k.tenant_id and s.session_id = k.session_id and m.seq between s.first_seq and s.last_seq
  limit 1
) e

-- name: find_shared  index: session_segments_by_log
-- How far forks show each log.
select k.place, s.last_seq
from unnest((select $1::text[]), (select $2::text[])) with ordinality as k (tenant_id, session_id, place)
cross join lateral (
  select session_segments.last_seq from session_segments
  where session_segments.tenant_id = k.tenant_id and session_segments.log_id = k.session_id
  order by session_segments.last_seq desc
  limit 1
) s

-- name: find_message_place  index: events_message_key
select e.seq from events e
where e.tenant_id = $1 collate "POSIX" and e.session_id = $2 collate "POSIX" and e.message_id = $3::text
  and message_key(e.tenant_id, e.session_id, e.message_id) = message_key($1, $2, $3::text)
limit 1

-- name: has_deleted  index: events_deleted
-- Whether a message was deleted in these parts of logs.
select exists (
  select from unnest((select $2::text[]), (select $3::bigint[]), (select $4::bigint[])) as k (log_id, first_seq, last_seq)
  cross join lateral (
    select 1 from events e
    where e.tenant_id = $1 collate "POSIX" and e.session_id = k.log_id collate "POSIX" and e.type = -20
      and e.seq >= k.first_seq and e.seq <= k.last_seq
    limit 1
  ) deleted
)

-- name: count_messages  index: events_messages
select coalesce(sum(c.count), 0)::bigint
from unnest((select $2::text[]), (select $3::bigint[]), (select $4::bigint[])) as k (log_id, first_seq, last_seq)
cross join lateral (
  select count(*) as count from events e
  where e.tenant_id = $1 collate "POSIX" and e.session_id = k.log_id collate "POSIX" and e.type = 20
    and e.seq >= k.first_seq and e.seq <= k.last_seq
) c

-- name: count_forks  index: session_forks_by_parent
select count(*) from (
  select 1 from session_forks where tenant_id = $1 and parent_id = $2 limit $3
) few

-- name: runs_until  index: runs_pkey
select run_id, place, status, body from runs
where tenant_id = $1 and session_id = $2 and place <= $3
order by place
limit $4

-- name: tool_calls_until  index: tool_calls_pkey
select tool_call_id, seq, status, awaits_approval, create_time, expire_time, result_seq, run_id, user_id, body
from tool_calls
where tenant_id = $1 and session_id = $2 and seq <= $3
order by seq
limit $4

-- name: attachments_until  index: attachments_pkey
select attachment_id, seq, blob_id, body from attachments
where tenant_id = $1 and session_id = $2 and seq <= $3
order by seq
limit $4

-- name: find_inherited_contents  index: events_pkey
-- As find_contents in write.sql, of events that the session may share.
select k.place, e.content
from unnest((select $1::text[]), (select $2::text[]), (select $3::bigint[]))
  with ordinality as k (tenant_id, session_id, seq, place)
cross join lateral (
  select * from events
  where events.tenant_id = k.tenant_id and events.session_id = log_of(k.tenant_id, k.session_id, k.seq)
    and events.seq = k.seq
  limit 1
) e

-- name: write_fork  index: session_heads_pkey
with parts as (
  insert into session_segments (tenant_id, session_id, first_seq, last_seq, log_id)
  select $1, $2, k.* from unnest($3::bigint[], $4::bigint[], $5::text[]) as k (first_seq, last_seq, log_id)
), child as (
  insert into session_forks (tenant_id, session_id, parent_id, create_time) values ($1, $2, $6, $7)
), parent as (
  update session_heads set forked = true where tenant_id = $1 and session_id = $6 and not forked
)
update session_heads set fork_seq = $8 where tenant_id = $1 and session_id = $2

-- name: write_spreads
insert into spreads (tenant_id, session_id, request_id, log_id, seq, message_id, reason, title, actor)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[],
  $9::text[])

-- name: hide_shown  index: session_segments_by_log session_forks_by_parent spreads_by_log
-- What forks show of the log $2 is in the hidden log $3 from now on. Answers with the last seq that one shows.
with parts as (
  update session_segments set log_id = $3 where tenant_id = $1 and log_id = $2
  returning last_seq
), children as (
  update session_forks set parent_id = $3 where tenant_id = $1 and parent_id = $2
), waiting as (
  update spreads set log_id = $3 where tenant_id = $1 and log_id = $2
)
select max(last_seq) from parts

-- name: hide_events  index: events_pkey
-- Events of the log $2 above $4 up to $5 move to the hidden log $3.
update events set session_id = $3, commit_xid = '0'
where tenant_id = $1 and session_id = $2 and seq > $4 and seq <= $5

-- name: add_hiding
-- What forks show of the log $2 is to move to the hidden log $3, in steps. Its forks are those of the hidden log at once.
with children as (
  update session_forks set parent_id = $3 where tenant_id = $1 and parent_id = $2
)
insert into hidings (tenant_id, session_id, log_id, base_version, version) values ($1, $2, $3, $4, $5)

-- name: find_hiding  index: hidings_pkey
select tenant_id, session_id from hidings
where ($1::text = '' or tenant_id = $1) and not lives_elsewhere(tenant_id)
order by tenant_id, session_id
limit 1

-- name: lock_hiding  index: hidings_pkey session_segments_by_log
select h.log_id, h.base_version, h.version, coalesce((
  select s.last_seq from session_segments s
  where s.tenant_id = h.tenant_id and s.log_id = h.session_id
  order by s.last_seq desc
  limit 1
), 0) as shown
from hidings h
where h.tenant_id = $1 and h.session_id = $2 and not lives_elsewhere(h.tenant_id)
for update

-- name: find_step  index: events_pkey
-- The seq of the last event of the next step: at most $5 events above $3, through $4.
select max(seq) from (
  select seq from events
  where tenant_id = $1 and session_id = $2 and seq > $3 and seq <= $4
  order by seq
  limit $5
) step

-- name: split_segments  index: session_segments_by_log spreads_by_log
-- What segments show of the log $2 through $4 is of the log $3 from now on.
with old as (
  delete from session_segments where tenant_id = $1 and log_id = $2
  returning session_id, first_seq, last_seq
), before as (
  delete from session_segments s using old
  where s.tenant_id = $1 and s.session_id = old.session_id and s.log_id = $3
  returning s.session_id, s.first_seq
), waiting as (
  update spreads set log_id = $3 where tenant_id = $1 and log_id = $2 and seq <= $4
)
insert into session_segments (tenant_id, session_id, first_seq, last_seq, log_id)
select $1, old.session_id, coalesce(before.first_seq, old.first_seq), least(old.last_seq, $4), $3
from old left join before on before.session_id = old.session_id
union all
select $1, old.session_id, $4 + 1, old.last_seq, $2 from old where old.last_seq > $4

-- name: end_hiding  index: hidings_pkey events_pkey session_heads_pkey
-- Everything has moved: removes what no fork shows, all below the final event at $3.
with gone as (
  delete from hidings where tenant_id = $1 and session_id = $2
), rest as (
  delete from events where tenant_id = $1 and session_id = $2 and seq < $3
)
update session_heads set forked = false where tenant_id = $1 and session_id = $2 and delete_time is not null

-- name: end_fork  index: session_segments_pkey session_forks_pkey
-- Answers with the hidden logs that the fork has shown.
with parts as (
  delete from session_segments where tenant_id = $1 and session_id = $2
  returning log_id
), child as (
  delete from session_forks where tenant_id = $1 and session_id = $2
)
select distinct log_id from parts where log_id < U&'\0002'

-- name: remove_hidden  index: session_segments_by_log events_pkey
-- Removes the events of a hidden log that no fork shows any more.
delete from events
where tenant_id = $1 and session_id = $2 and seq > coalesce((
  select s.last_seq from session_segments s
  where s.tenant_id = $1 and s.log_id = $2
  order by s.last_seq desc
  limit 1
), 0)

-- name: end_branch  index: session_heads_pkey
-- $3: whether what forks show of it is yet to be moved.
update session_heads set fork_seq = null, forked = $3 where tenant_id = $1 and session_id = $2

-- name: untold  index: spreads_pkey session_segments_by_log requests_pkey session_heads_pkey
-- Sessions that show a redacted message and have not been told of the redaction, at most $2. $1: of this tenant; "": of all
-- that live here.
select p.tenant_id, t.session_id, p.request_id, p.message_id, p.reason, p.title, p.actor
from (
  select * from spreads
  where ($1::text = '' or tenant_id = $1) and not lives_elsewhere(tenant_id)
  order by tenant_id, session_id, request_id
  limit 16
) p
cross join lateral (
  select shown.session_id
  from (
    select s.session_id from session_segments s
    where s.tenant_id = p.tenant_id and s.log_id = p.log_id and s.last_seq >= p.seq
    union all
    select p.log_id
  ) shown
  where shown.session_id <> p.session_id and exists (
    select from session_heads h
    where h.tenant_id = p.tenant_id and h.session_id = shown.session_id and h.delete_time is null
  ) and not exists (
    select from requests r
    where r.tenant_id = p.tenant_id and r.session_id = shown.session_id and r.request_id = p.request_id
  )
  limit $2
) t
limit $2

-- name: waiting_spreads  index: spreads_pkey
select tenant_id, session_id, request_id from spreads
where ($1::text = '' or tenant_id = $1) and not lives_elsewhere(tenant_id)
order by tenant_id, session_id, request_id
limit 16

-- name: end_spreads  index: spreads_pkey
delete from spreads where ctid = any (array(
  select s.ctid
  from unnest((select $1::text[]), (select $2::text[]), (select $3::text[])) as k (tenant_id, session_id, request_id)
  cross join lateral (
    select spreads.ctid from spreads
    where spreads.tenant_id = k.tenant_id and spreads.session_id = k.session_id
      and spreads.request_id = k.request_id
    limit 1
  ) s
))
