-- Which sessions are due for a summary (summaries/queue.py). schema.sql explains "POSIX" and the columns.

-- name: begin_feeds
-- Notes from which place on feeds are looked through, the first time.
insert into summary_feeds (tenant_id, commit_xid)
select '', (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + shift)::text::xid8 from feed_order
on conflict (tenant_id) do nothing

-- name: feeds_unseen  index: events_feed summary_feeds_pkey
-- Tenants with events behind the place up to which their feed was looked through, and that place; nothing before
-- begin_feeds. One probe for each tenant finds its last transaction.
with {ends_of_feeds}
select ends.tenant_id, f.commit_xid, f.session_id, f.seq
from ends
cross join lateral (
  select * from summary_feeds
  where summary_feeds.tenant_id in (ends.tenant_id collate "C", '')
  order by summary_feeds.tenant_id desc
  limit 1
) f
where (
    ends.newest > f.commit_xid
    or ends.newest = f.commit_xid and exists (
      select from events e
      where e.tenant_id = ends.tenant_id collate "POSIX" and e.commit_xid = f.commit_xid
        and (e.session_id, e.seq) > (f.session_id, f.seq)
    )
  )
  and not lives_elsewhere(ends.tenant_id collate "C")
order by ends.tenant_id

-- name: move_place
-- A row: the tenant's place was $2 to $4, or it had none, and is $5 to $7 now.
insert into summary_feeds as f (tenant_id, commit_xid, session_id, seq)
select $1, $5::xid8, $6, $7 where not lives_elsewhere($1)
on conflict (tenant_id) do update
set commit_xid = excluded.commit_xid, session_id = excluded.session_id, seq = excluded.seq
where (f.commit_xid, f.session_id, f.seq) = ($2::xid8, $3::text, $4::bigint)
returning true

-- name: forget_gone  index: summary_work_pkey
delete from summary_work where ctid = any (array(
  select w.ctid
  from unnest((select $2::text[])) as k (session_id)
  cross join lateral (
    select summary_work.ctid from summary_work
    where summary_work.tenant_id = $1 and summary_work.session_id = k.session_id
    limit 1
  ) w
))

-- name: count_events  index: summary_work_pkey
-- Counts messages that were not counted yet. $2 to $5: (session, seq, tokens or -1, whether it ended the session). $6, $7:
-- messages and tokens from which on a session is due; 0: never.
insert into summary_work as w (tenant_id, session_id, counted_to, messages, tokens, ended_seq, due_time)
select $1, k.session_id, max(k.seq), count(*) filter (where k.fresh), coalesce(sum(k.tokens) filter (where k.fresh), 0),
  coalesce(max(k.seq) filter (where k.ends), 0),
  case when bool_or(k.ends)
    or $6::bigint between 1 and count(*) filter (where k.fresh)
    or $7::bigint between 1 and coalesce(sum(k.tokens) filter (where k.fresh), 0) then clock_timestamp() end
from (
  select k.*, k.tokens >= 0 and k.seq > coalesce(known.counted_to, 0) as fresh
  from unnest((select $2::text[]), (select $3::bigint[]), (select $4::bigint[]), (select $5::boolean[]))
    as k (session_id, seq, tokens, ends)
  left join lateral (
    select counted_to from summary_work
    where summary_work.tenant_id = $1 and summary_work.session_id = k.session_id
    offset 0
  ) known on true
) k
group by k.session_id
order by k.session_id
on conflict (tenant_id, session_id) do update
set counted_to = greatest(w.counted_to, excluded.counted_to), messages = w.messages + excluded.messages,
  tokens = w.tokens + excluded.tokens, ended_seq = greatest(w.ended_seq, excluded.ended_seq),
  due_time = case
    when w.due_time is not null then w.due_time
    when greatest(w.ended_seq, excluded.ended_seq) > 0
      or $6::bigint between 1 and w.messages + excluded.messages
      or $7::bigint between 1 and w.tokens + excluded.tokens then clock_timestamp()
  end

-- name: request  index: summary_work_asked
-- $3 how many of the newest messages stay out, $4 the most other sessions that may wait. A row: it was noted.
insert into summary_work as w
  (tenant_id, session_id, counted_to, messages, tokens, ended_seq, asked, requests, keep, due_time)
select $1, $2, 0, 0, 0, 0, true, 1, $3, clock_timestamp()
where not lives_elsewhere($1) and $4 > (
  select count(*) from (
    select from summary_work
    where summary_work.tenant_id = $1 and summary_work.asked and summary_work.session_id <> $2
    limit $4
  ) waiting
)
on conflict (tenant_id, session_id) do update
set asked = true, requests = w.requests + 1, keep = excluded.keep,
  attempts = case when w.due_time is not null then w.attempts else 0 end,
  due_time = coalesce(w.due_time, excluded.due_time)
returning true

-- name: claim_due  index: summary_work_due
-- Claims sessions that are due until $1 seconds from now, at most $2.
update summary_work
set due_time = clock_timestamp() + make_interval(secs => $1), attempts = attempts + 1, claims = claims + 1
where ctid = any (array(
  select w.ctid from summary_work w
  where w.due_time <= clock_timestamp() and not lives_elsewhere(w.tenant_id)
  order by w.due_time
  limit $2
  for update skip locked
))
returning tenant_id, session_id, claims, attempts, messages, tokens, ended_seq > 0, asked, keep, requests

-- name: settle  index: summary_work_pkey
-- $3 the claim, $4 the version looked at, $5, $6 by how much the counts are off, $7 whether more is to be summarised, $8 the
-- requests that the claim knows.
update summary_work
set messages = messages + $5, tokens = tokens + $6, counted_to = greatest(counted_to, $4), attempts = 0,
  asked = $7 or requests <> $8, keep = case when $7 or requests <> $8 then keep end,
  ended_seq = case when $7 or ended_seq > $4 then ended_seq else 0 end,
  due_time = case when $7 or requests <> $8 or ended_seq > $4 then clock_timestamp() end
where tenant_id = $1 and session_id = $2 and claims = $3

-- name: postpone  index: summary_work_pkey
update summary_work set due_time = clock_timestamp() + make_interval(secs => $4::float8)
where tenant_id = $1 and session_id = $2 and claims = $3

-- name: forget  index: summary_work_pkey
delete from summary_work where tenant_id = $1 and session_id = $2 and claims = $3
