-- The index of searches: what searches read, and what keeps it up to date. write.sql explains "(select $1)", schema.sql
-- "POSIX" and the columns.

-- name: search_feed  index: search_feeds_of_tenants session_heads_pkey
-- The index that answers for a tenant, if there is one; and whether it has all that there was when it was last read to the
-- end. `generation` tells indexes of the tenant apart, also of different databases.
select f.feed_id, (extract(epoch from f.create_time) * 1000000)::bigint as generation, f.sessions, f.entries,
  case when f.feed_id is null then (
    select h.session_id from session_heads h where h.tenant_id = $1 order by h.tenant_id, h.session_id limit 1
  ) is null else f.complete end as complete
from (select 1) one
left join search_feeds f on f.tenant_id = $1 and f.state = 1

-- name: search_buckets  index: search_buckets_pkey
-- Buckets, the newest first, up to $3 and with times of the range; at most $6.
select bucket from search_buckets
where feed_id = $1 and kind = $2 and bucket <= $3
  and ($4::timestamptz is null or last_time >= $4) and ($5::timestamptz is null or first_time < $5)
order by bucket desc
limit $6

-- name: search_seen  index: session_heads_pkey search_feeds_of_tenants search_sessions_pkey
-- The version of a session in scope, and the one that the index has seen of it.
select h.version, coalesce((
  select s.version from search_feeds f
  join search_sessions s on s.feed_id = f.feed_id and s.session_id = $2
  where f.tenant_id = $1 and f.state = 1
), 0) as seen
from session_heads h
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)

-- name: lock_searched
-- Waits until no indexing of these sessions is under way, and keeps it away until the end of the transaction. Taken in
-- the order of the hashes to avoid deadlocks.
select pg_advisory_xact_lock(k.hash)
from (
  select distinct hashtextextended(tenant_id || E'\n' || session_id, 7297) as hash
  from unnest($1::text[], $2::text[]) as k (tenant_id, session_id)
  order by 1
) k

-- name: unsearch_events  index: search_feeds_of_tenants search_sessions_pkey search_entries_pkey
-- Removes events from the indexes of their tenants, those that are being removed themselves among them; or from one of
-- them ($4, unless it is 0).
delete from search_entries where ctid = any (array(
  select e.ctid
  from unnest((select $1::text[]), (select $2::text[]), (select $3::bigint[])) as k (tenant_id, session_id, seq)
  join search_feeds f on f.tenant_id = k.tenant_id and $4::integer in (0, f.feed_id)
  cross join lateral (
    select number from search_sessions s where s.feed_id = f.feed_id and s.session_id = k.session_id limit 1
  ) s
  cross join lateral (
    select search_entries.ctid from search_entries
    where search_entries.feed_id = f.feed_id and search_entries.session_number = s.number
      and search_entries.seq = k.seq
    limit 1
  ) e
))

-- name: unsearch_names  index: search_feeds_of_tenants search_sessions_pkey
-- Removes the names, summaries and labels of sessions from the index, until they are read anew.
update search_sessions t
set keys = '{}', digest = ''
from (
  select distinct f.feed_id, k.session_id
  from unnest((select $1::text[]), (select $2::text[])) as k (tenant_id, session_id)
  join search_feeds f on f.tenant_id = k.tenant_id
) k
where t.feed_id = k.feed_id and t.session_id = k.session_id

-- name: unsearch_sessions  index: search_feeds_of_tenants search_sessions_pkey search_entries_pkey
-- Removes sessions from the indexes of their tenants, or from one of them ($4, unless it is 0), with their events below a
-- seq.
with gone as materialized (
  select s.ctid as place, s.feed_id, s.number, k.seq
  from unnest((select $1::text[]), (select $2::text[]), (select $3::bigint[])) as k (tenant_id, session_id, seq)
  join search_feeds f on f.tenant_id = k.tenant_id and $4::integer in (0, f.feed_id)
  cross join lateral (
    select search_sessions.ctid, search_sessions.feed_id, search_sessions.number from search_sessions
    where search_sessions.feed_id = f.feed_id and search_sessions.session_id = k.session_id
    limit 1
  ) s
), unsearched as (
  delete from search_entries where ctid = any (array(
    select e.ctid
    from gone
    cross join lateral (
      select search_entries.ctid from search_entries
      where search_entries.feed_id = gone.feed_id and search_entries.session_number = gone.number
        and search_entries.seq < gone.seq
      offset 0
    ) e
  ))
)
delete from search_sessions where ctid = any (array(select place from gone))

-- name: take_lease
-- A row: this server keeps the index up to date, for so many seconds.
insert into search_lease as l (holder, expire_time)
values ($1, clock_timestamp() + make_interval(secs => $2))
on conflict (one) do update
set holder = excluded.holder, expire_time = excluded.expire_time
where l.holder = $1 or l.expire_time < clock_timestamp()
returning holder

-- name: give_lease
delete from search_lease where one and holder = $1

-- name: lease
-- Whether a server keeps the index up to date.
select exists (select from search_lease where one and expire_time >= clock_timestamp())

-- name: feeds_behind  index: events_feed search_feeds_of_tenants
-- Tenants with events that their indexes have not read, or without an index: (tenant, feed or null). One probe for each
-- tenant finds its last transaction. A tenant that moves here has no index before all its rows are here.
with {ends_of_feeds}
select ends.tenant_id, f.feed_id
from ends
left join lateral (
  select * from search_feeds where search_feeds.tenant_id = ends.tenant_id collate "C" and search_feeds.state > 0
  offset 0
) f on true
where (
    f.feed_id is null or f.state = 2 or ends.newest > f.commit_xid
    or ends.newest = f.commit_xid and exists (
      select from events e
      where e.tenant_id = ends.tenant_id collate "POSIX" and e.commit_xid = f.commit_xid
        and (e.session_id, e.seq) > (f.session_id, f.seq)
    )
  )
  and not lives_elsewhere(ends.tenant_id collate "C")

-- name: lock_homes
-- Keeps moves of tenants from ending until the end of the transaction (moving/switching.py): whoever sees that a tenant
-- lives here adds its index before the old rows of the tenant are removed, with its index.
lock table uploads in row exclusive mode

-- name: add_feed
insert into search_feeds (tenant_id, state)
select $1, $2 where not lives_elsewhere($1)
on conflict (tenant_id, state) do nothing

-- name: add_feeds
-- Indexes to be built anew, of all tenants that have one that answers, or of $1.
insert into search_feeds (tenant_id, state)
select tenant_id, 2 from search_feeds where state = 1 and ($1::text = '' or tenant_id = $1) and not lives_elsewhere(tenant_id)
on conflict (tenant_id, state) do nothing

-- name: lock_feed  index: search_feeds_pkey
select tenant_id, state, commit_xid, session_id, seq, sessions, entries, complete from search_feeds
where feed_id = $1 and state > 0 and not lives_elsewhere(tenant_id)
for update skip locked

-- name: feed_ahead  index: events_feed
-- The next events of a feed, at most $5, and at most $6 bytes of what is searched: their sessions only. As read_feed.
select sized.commit_xid, sized.session_id, sized.seq, sized.found from (
  select page.*, count(*) over () as found, row_number() over onwards as place,
    sum(case when page.type >= 20 then octet_length(page.body) else 0 end
      + case when page.type >= 40 then coalesce(octet_length(page.content), 0) else 0 end) over onwards as bytes
  from (
    select nearest.* from (
      select e.tenant_id collate "POSIX" as tenant_id, e.commit_xid, e.session_id, e.seq, abs(e.type) as type, e.body,
        e.content
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
order by sized.place

-- name: events_to_index  index: events_pkey
-- What the index needs of these events. Of a session's large fields only whether an event may have changed the summary.
select k.place, e.type, e.create_time, e.message_id, e.head, e.body,
  case when e.type >= 40 then e.content end as content,
  e.type between 1 and 19 and e.content is not null and (
    substring(e.content from 1 for 1) <> '\x07' or position('summary'::bytea in e.content) > 0
  ) as changes_summary
from unnest((select $2::text[]), (select $3::bigint[])) with ordinality as k (session_id, seq, place)
cross join lateral (
  select * from events
  where events.tenant_id = $1 and events.session_id = k.session_id and events.seq = k.seq
  limit 1
) e
order by k.place

-- name: sessions_to_index  index: session_heads_pkey search_sessions_pkey
-- The sessions of events, and what the index has of them.
select k.session_id, h.user_id, h.delete_time is null as lives, s.number, s.version, s.digest
from unnest((select $2::text[])) as k (session_id)
cross join lateral (
  select user_id, delete_time from session_heads
  where session_heads.tenant_id = $1 and session_heads.session_id = k.session_id
  limit 1
) h
left join lateral (
  select number, version, digest from search_sessions
  where search_sessions.feed_id = $3 and search_sessions.session_id = k.session_id
  limit 1
) s on true

-- name: write_index
-- Rows of sessions, of events and of buckets, and how far the feed has been read. `keys` has those of all rows, each with
-- the places of its first and its last one. The digest '\x00' keeps the keys of a session that has some.
with placed as (
  insert into search_sessions as old (feed_id, session_id, number, version, user_id, digest, keys)
  select :feed_id::integer, k.session_id, k.number, k.version, k.user_id, k.digest,
    (:keys::integer[])[k.first_key:k.last_key]
  from unnest(:s_session_id::text[], :s_number::bigint[], :s_version::bigint[], :s_user_id::text[], :s_digest::bytea[],
    :s_first_key::integer[], :s_last_key::integer[])
    as k (session_id, number, version, user_id, digest, first_key, last_key)
  on conflict (feed_id, session_id) do update
  set version = greatest(old.version, excluded.version),
    digest = case when excluded.digest = '\x00' then old.digest else excluded.digest end,
    keys = case when excluded.digest = '\x00' then old.keys else excluded.keys end
), entered as (
  insert into search_entries (feed_id, session_number, seq, number, create_time, role, keys)
  select :feed_id, k.session_number, k.seq, k.number, k.create_time, k.role, (:keys)[k.first_key:k.last_key]
  from unnest(:e_session_number::bigint[], :e_seq::bigint[], :e_number::bigint[], :e_create_time::timestamptz[],
    :e_role::smallint[], :e_first_key::integer[], :e_last_key::integer[])
    as k (session_number, seq, number, create_time, role, first_key, last_key)
  on conflict do nothing
), timed as (
  insert into search_buckets as old (feed_id, kind, bucket, first_time, last_time)
  select :feed_id, k.* from unnest(:b_kind::smallint[], :b_bucket::bigint[], :b_first_time::timestamptz[],
    :b_last_time::timestamptz[]) as k
  on conflict (feed_id, kind, bucket) do update
  set first_time = least(old.first_time, excluded.first_time), last_time = greatest(old.last_time, excluded.last_time)
)
update search_feeds
set commit_xid = :commit_xid::xid8, session_id = :session_id::text, seq = :seq::bigint, sessions = :sessions::bigint,
  entries = :entries::bigint
where feed_id = :feed_id

-- name: replace_feed  index: search_feeds_of_tenants
-- The index that was built anew takes the place of the other one.
with dropped as (
  update search_feeds set state = -feed_id where tenant_id = $1 and state = 1 returning 1
)
select count(*) from dropped

-- name: complete_feed  index: search_feeds_pkey
-- The index has all that there was to be read: from now on, it answers.
update search_feeds set state = 1, complete = true where feed_id = $1 and not lives_elsewhere(tenant_id)

-- name: drop_feeds  index: search_feeds_of_tenants
-- The indexes of a tenant that lives elsewhere are to be removed.
update search_feeds set state = -feed_id where tenant_id = $1 and state > 0 and lives_elsewhere($1)

-- name: remove_dropped  index: search_feeds_dropped search_entries_pkey search_sessions_pkey
-- Removes at most $1 rows of each table of an index that was dropped, of any tenant or of $2; the feed itself when nothing
-- else is left. It waits for no row, which a deletion that began before may be removing.
with dropped as materialized (
  select feed_id from search_feeds where state < 0 and ($2::text = '' or tenant_id = $2) limit 1 for update skip locked
), entries as (
  delete from search_entries where ctid = any (array(
    select e.ctid from dropped cross join lateral (
      select search_entries.ctid from search_entries where search_entries.feed_id = dropped.feed_id
      order by search_entries.feed_id, search_entries.session_number, search_entries.seq
      limit $1
      for update skip locked
    ) e
  )) returning 1
), names as (
  delete from search_sessions where ctid = any (array(
    select e.ctid from dropped cross join lateral (
      select search_sessions.ctid from search_sessions where search_sessions.feed_id = dropped.feed_id
      order by search_sessions.feed_id, search_sessions.session_id
      limit $1
      for update skip locked
    ) e
  )) returning 1
), times as (
  delete from search_buckets where feed_id in (select feed_id from dropped) returning 1
), feed as (
  delete from search_feeds
  where feed_id in (select feed_id from dropped)
    and not exists (select from search_entries where search_entries.feed_id = search_feeds.feed_id)
    and not exists (select from search_sessions where search_sessions.feed_id = search_feeds.feed_id)
)
select (select count(*) from dropped) as dropped, (select count(*) from entries) + (select count(*) from names) as rows

-- name: feeds_rebuilding
-- Indexes that are being built anew: how many, how many events of tools and messages they have, and how many the ones have
-- that they will replace.
select count(*), coalesce(sum(f.entries), 0)::bigint, coalesce(sum(greatest(a.entries, f.entries)), 0)::bigint
from search_feeds f
left join search_feeds a on a.tenant_id = f.tenant_id and a.state = 1
where f.state = 2 and ($1::text = '' or f.tenant_id = $1)
