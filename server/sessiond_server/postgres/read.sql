-- Reads of one session. Each is one statement, so an answer comes from one snapshot. Parameters $1 to $3 are tenant,
-- session and owner; the empty owner matches any. schema.sql explains "POSIX" at the indexes of events; write.sql
-- explains "(select $2)".

-- name: get_core  index: session_heads_pkey
select version, core, '{}'::bytea[] as chain
from session_heads
where tenant_id = $1 and session_id = $2 and delete_time is null and ($3::text = '' or user_id = $3)

-- name: get_session  index: session_heads_pkey events_contents
-- find_session_contents in write.sql explains the chain.
select h.version, h.core, case when h.content_version = 0 then '{}' else array(
  select e.content from events e
  where e.tenant_id = h.tenant_id collate "POSIX" and e.session_id = h.session_id collate "POSIX"
    and e.type < 20 and e.content is not null and e.seq <= h.content_version
    and e.seq >= (
      select w.seq from events w
      where w.tenant_id = h.tenant_id collate "POSIX" and w.session_id = h.session_id collate "POSIX"
        and w.type < 20 and w.content is not null and w.seq <= h.content_version
        and substring(w.content from 1 for 1) <> '\x07'
      order by w.seq desc
      limit 1
    )
  order by e.seq
) end as chain
from session_heads h
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)

-- name: get_content  index: session_heads_pkey events_contents
-- The chain of the content at $4, in the form of get_session.
select h.version, h.core, array(
  select e.content from events e
  where e.tenant_id = h.tenant_id collate "POSIX" and e.session_id = h.session_id collate "POSIX"
    and e.type < 20 and e.content is not null and e.seq <= $4
    and e.seq >= (
      select w.seq from events w
      where w.tenant_id = h.tenant_id collate "POSIX" and w.session_id = h.session_id collate "POSIX"
        and w.type < 20 and w.content is not null and w.seq <= $4
        and substring(w.content from 1 for 1) <> '\x07'
      order by w.seq desc
      limit 1
    )
  order by e.seq
) as chain, h.fork_seq
from session_heads h
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)

-- name: get_cores  index: session_heads_pkey
select k.place, h.version, h.core, '{}'::bytea[] as chain
from unnest((select $2::text[])) with ordinality as k (session_id, place)
cross join lateral (
  select * from session_heads
  where session_heads.tenant_id = $1 and session_heads.session_id = k.session_id
    and delete_time is null and ($3::text = '' or user_id = $3)
  limit 1
) h

-- name: get_sessions  index: session_heads_pkey events_contents
select k.place, h.version, h.core, case when h.content_version = 0 then '{}' else array(
  select e.content from events e
  where e.tenant_id = h.tenant_id collate "POSIX" and e.session_id = h.session_id collate "POSIX"
    and e.type < 20 and e.content is not null and e.seq <= h.content_version
    and e.seq >= (
      select w.seq from events w
      where w.tenant_id = h.tenant_id collate "POSIX" and w.session_id = h.session_id collate "POSIX"
        and w.type < 20 and w.content is not null and w.seq <= h.content_version
        and substring(w.content from 1 for 1) <> '\x07'
      order by w.seq desc
      limit 1
    )
  order by e.seq
) end as chain
from unnest((select $2::text[])) with ordinality as k (session_id, place)
cross join lateral (
  select * from session_heads
  where session_heads.tenant_id = $1 and session_heads.session_id = k.session_id
    and delete_time is null and ($3::text = '' or user_id = $3)
  limit 1
) h

-- name: get_message  index: session_heads_pkey events_message_key
select h.version, e.body, h.fork_seq, h.rewound @> e.seq as hidden
from session_heads h
left join lateral (
  select events.seq, events.body from events
  where events.tenant_id = $1 collate "POSIX" and events.session_id = $2 collate "POSIX"
    and events.message_id = $4::text
    and message_key(events.tenant_id, events.session_id, events.message_id) = message_key($1, $2, $4::text)
  limit 1
) e on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)

-- name: list_messages_ascending  index: session_heads_pkey events_messages
-- Messages with $4 < seq < $5, at most $6 of them and $7 bytes. Reading sizes does not fetch bodies stored out of line.
-- `found` counts up to $6 + 1. No row: no session; one row without seq: no messages. What is at `parts_seq` or before it is
-- not all of the session's own, or not all visible: see visible_messages_ascending in forks.sql.
select h.version, m.seq, m.body, m.found,
  greatest(h.fork_seq, upper(h.rewound) - 1) as parts_seq, h.rewound is not null as rewound
from session_heads h
left join lateral (
  select sized.* from (
    select page.seq, page.body, row_number() over upwards as place, sum(octet_length(page.body)) over upwards as bytes,
      count(*) over () as found
    from (
      select e.seq, e.body from events e
      where e.tenant_id = $1 collate "POSIX" and e.session_id = $2 collate "POSIX" and e.type = 20
        and e.seq > $4 and e.seq < $5
      order by e.seq
      limit $6::bigint + 1
    ) page
    window upwards as (order by page.seq rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq

-- name: list_messages_descending  index: session_heads_pkey events_messages
-- As list_messages_ascending, but from the upper bound downwards.
select h.version, m.seq, m.body, m.found,
  greatest(h.fork_seq, upper(h.rewound) - 1) as parts_seq, h.rewound is not null as rewound
from session_heads h
left join lateral (
  select sized.* from (
    select page.seq, page.body, row_number() over downwards as place,
      sum(octet_length(page.body)) over downwards as bytes, count(*) over () as found
    from (
      select e.seq, e.body from events e
      where e.tenant_id = $1 collate "POSIX" and e.session_id = $2 collate "POSIX" and e.type = 20
        and e.seq > $4 and e.seq < $5
      order by e.seq desc
      limit $6::bigint + 1
    ) page
    window downwards as (order by page.seq desc rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq desc

-- name: list_summaries  index: session_heads_pkey events_summaries
-- As list_messages_descending, of summaries before $4: at most $5 of them and $6 bytes.
select h.version, m.seq, m.body, m.found,
  greatest(h.fork_seq, upper(h.rewound) - 1) as parts_seq, h.rewound is not null as rewound
from session_heads h
left join lateral (
  select sized.* from (
    select page.seq, page.body, row_number() over downwards as place,
      sum(octet_length(page.body)) over downwards as bytes, count(*) over () as found
    from (
      select e.seq, e.body from events e
      where e.tenant_id = $1 collate "POSIX" and e.session_id = $2 collate "POSIX" and e.type = 80 and e.seq < $4
      order by e.seq desc
      limit $5::bigint + 1
    ) page
    window downwards as (order by page.seq desc rows unbounded preceding)
  ) sized
  where sized.place <= $5 and (sized.place = 1 or sized.bytes <= $6::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq desc

-- name: find_marked_ascending  index: session_heads_pkey message_marks_pkey events_pkey
-- As list_messages_ascending, of the messages with the mark $8.
select h.version, m.seq, m.body, m.found,
  greatest(h.fork_seq, upper(h.rewound) - 1) as parts_seq, h.rewound is not null as rewound
from session_heads h
left join lateral (
  select sized.* from (
    select page.*, row_number() over upwards as place, sum(octet_length(page.body)) over upwards as bytes,
      count(*) over () as found
    from (
      select e.seq, e.body from (
        select k.seq from message_marks k
        where k.tenant_id = $1 and k.session_id = $2 and k.mark = $8::text and k.seq > $4 and k.seq < $5
        order by k.seq
        limit $6::bigint + 1
      ) marked
      cross join lateral (
        select events.seq, events.body from events
        where events.tenant_id = $1 and events.session_id = $2 and events.seq = marked.seq
        limit 1
      ) e
    ) page
    window upwards as (order by page.seq rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq

-- name: find_marked_descending  index: session_heads_pkey message_marks_pkey events_pkey
-- As find_marked_ascending, but from the upper bound downwards.
select h.version, m.seq, m.body, m.found,
  greatest(h.fork_seq, upper(h.rewound) - 1) as parts_seq, h.rewound is not null as rewound
from session_heads h
left join lateral (
  select sized.* from (
    select page.*, row_number() over downwards as place, sum(octet_length(page.body)) over downwards as bytes,
      count(*) over () as found
    from (
      select e.seq, e.body from (
        select k.seq from message_marks k
        where k.tenant_id = $1 and k.session_id = $2 and k.mark = $8::text and k.seq > $4 and k.seq < $5
        order by k.seq desc
        limit $6::bigint + 1
      ) marked
      cross join lateral (
        select events.seq, events.body from events
        where events.tenant_id = $1 and events.session_id = $2 and events.seq = marked.seq
        limit 1
      ) e
    ) page
    window downwards as (order by page.seq desc rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq desc

-- name: find_timed_ascending  index: session_heads_pkey message_marks_pkey events_pkey
-- As list_messages_ascending, of the messages with a mark from $8 on and before $9. With more than 1000 of them the rows
-- are `broad` and no page: some of the messages are missing. The inner order makes the planner read 1001 entries of the
-- index, and not the table.
select h.version, m.seq, m.body, m.found,
  greatest(h.fork_seq, upper(h.rewound) - 1) as parts_seq, h.rewound is not null as rewound, m.total > 1000 as broad
from session_heads h
left join lateral (
  select sized.* from (
    select page.*, row_number() over upwards as place, sum(octet_length(page.body)) over upwards as bytes,
      count(*) over () as found
    from (
      select e.seq, e.body, marked.total from (
        select counted.seq, counted.total from (
          select few.seq, count(*) over () as total from (
            select k.seq from message_marks k
            where k.tenant_id = $1 and k.session_id = $2 and k.mark >= $8::text and k.mark < $9::text
              and k.seq > $4 and k.seq < $5
            order by k.mark, k.seq
            limit 1001
          ) few
        ) counted
        order by counted.seq
        limit $6::bigint + 1
      ) marked
      cross join lateral (
        select events.seq, events.body from events
        where events.tenant_id = $1 and events.session_id = $2 and events.seq = marked.seq
        limit 1
      ) e
    ) page
    window upwards as (order by page.seq rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq

-- name: find_timed_descending  index: session_heads_pkey message_marks_pkey events_pkey
-- As find_timed_ascending, but from the upper bound downwards.
select h.version, m.seq, m.body, m.found,
  greatest(h.fork_seq, upper(h.rewound) - 1) as parts_seq, h.rewound is not null as rewound, m.total > 1000 as broad
from session_heads h
left join lateral (
  select sized.* from (
    select page.*, row_number() over downwards as place, sum(octet_length(page.body)) over downwards as bytes,
      count(*) over () as found
    from (
      select e.seq, e.body, marked.total from (
        select counted.seq, counted.total from (
          select few.seq, count(*) over () as total from (
            select k.seq from message_marks k
            where k.tenant_id = $1 and k.session_id = $2 and k.mark >= $8::text and k.mark < $9::text
              and k.seq > $4 and k.seq < $5
            order by k.mark, k.seq
            limit 1001
          ) few
        ) counted
        order by counted.seq desc
        limit $6::bigint + 1
      ) marked
      cross join lateral (
        select events.seq, events.body from events
        where events.tenant_id = $1 and events.session_id = $2 and events.seq = marked.seq
        limit 1
      ) e
    ) page
    window downwards as (order by page.seq desc rows unbounded preceding)
  ) sized
  where sized.place <= $6 and (sized.place = 1 or sized.bytes <= $7::bigint)
) m on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by m.seq desc

-- name: rarest_mark  index: session_heads_pkey message_marks_pkey
-- Of the marks $6, the one that fewest messages have, as far as 1000 tell.
select k.mark
from session_heads h
cross join unnest((select $6::text[])) as k (mark)
cross join lateral (
  select count(*) as many from (
    select 1 from message_marks m
    where m.tenant_id = $1 and m.session_id = $2 and m.mark = k.mark and m.seq > $4 and m.seq < $5
    limit 1000
  ) few
) counted
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by counted.many
limit 1

-- name: token_key
select secret from service_keys where name = 'tokens'

-- name: ping
-- A standby answers reads but takes no writes, as does a database that was made read-only.
select pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on',
  (select homes_version from placement)
