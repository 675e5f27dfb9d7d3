-- Attachments, uploads, and the pieces that hold their bytes. schema.sql explains "POSIX" at the indexes of events;
-- write.sql explains "(select $2)" and "lateral". In reads, $1 to $3 are tenant, session and owner.

-- name: get_attachment  index: session_heads_pkey attachments_pkey
-- No row: no session; a row of null: no such attachment.
select a.body
from session_heads h
left join lateral (
  select attachments.body from attachments
  where attachments.tenant_id = $1 and attachments.session_id = $2 and attachments.attachment_id = $4::text
    and attachments.blob_id is not null
  limit 1
) a on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)

-- name: get_file  index: session_heads_pkey attachments_pkey pieces_by_blob
-- A row for each piece.
select a.body, p.piece_id, p.length
from session_heads h
left join lateral (
  select attachments.body, attachments.blob_id from attachments
  where attachments.tenant_id = $1 and attachments.session_id = $2 and attachments.attachment_id = $4::text
    and attachments.blob_id is not null
  limit 1
) a on true
left join lateral (
  select pieces.piece_id, pieces.length, pieces.start from pieces
  where pieces.tenant_id = $1 and pieces.blob_id = a.blob_id and pieces.drop_time is null
  offset 0
) p on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by p.start

-- name: list_attachments  index: session_heads_pkey attachments_by_seq
-- Attachments with seq > $4, at most $5 + 1. No row: no session; one row without seq: no attachments.
select h.version, a.seq, a.body
from session_heads h
left join lateral (
  select page.seq, page.body from attachments page
  where page.tenant_id = $1 collate "POSIX" and page.session_id = $2 collate "POSIX" and page.blob_id is not null
    and page.seq > $4
  order by page.seq
  limit $5::bigint + 1
) a on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by a.seq

-- name: get_upload  index: session_heads_pkey uploads_pkey pieces_by_blob
-- A row for each piece.
select u.blob_id, u.epoch, u.body, u.touch_time, p.piece_id, p.length
from session_heads h
left join lateral (
  select uploads.blob_id, uploads.epoch, uploads.body, uploads.touch_time from uploads
  where uploads.tenant_id = $1 and uploads.session_id = $2 and uploads.attachment_id = $4::text
  limit 1
) u on true
left join lateral (
  select pieces.piece_id, pieces.length, pieces.start from pieces
  where pieces.tenant_id = $1 and pieces.blob_id = u.blob_id and pieces.drop_time is null
  offset 0
) p on true
where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)
order by p.start

-- name: lock_session  index: session_heads_pkey
select core, limits from session_heads
where tenant_id = $1 and session_id = $2 and delete_time is null and ($3::text = '' or user_id = $3)
for update

-- name: beside  index: uploads_pkey attachments_pkey
-- The time, the session's other unfinished uploads, whether an attachment has the id, and whether the tenant lives in
-- another database. Run it after lock_session.
select clock_timestamp() as now,
  (
    select count(*) from uploads where tenant_id = $1 and session_id = $2 and attachment_id <> $3
  ) as count,
  (
    select coalesce(sum(size_bytes), 0)::bigint from uploads
    where tenant_id = $1 and session_id = $2 and attachment_id <> $3
  ) as size_bytes,
  exists (
    select from attachments where tenant_id = $1 and session_id = $2 and attachment_id = $3
  ) as taken,
  coalesce(
    (select database_id from tenant_homes where tenant_id = $1) <> (select database_id from placement), false
  ) as elsewhere

-- name: is_elsewhere  index: tenant_homes_pkey
-- Run it after a statement that has locked a row or a table that the fence of a move locks (placement.sql).
select coalesce(
  (select database_id from tenant_homes where tenant_id = $1) <> (select database_id from placement), false
) as elsewhere

-- name: lock_upload  index: uploads_pkey
select blob_id, epoch from uploads
where tenant_id = $1 and session_id = $2 and attachment_id = $3
for update

-- name: insert_upload
with piece as (
  insert into pieces (tenant_id, piece_id, blob_id, start)
  values ($1, $7::uuid, $4::uuid, 0)
)
insert into uploads (tenant_id, session_id, attachment_id, blob_id, epoch, size_bytes, touch_time, body)
values ($1, $2, $3, $4::uuid, 1, $5, $8::timestamptz, $6)

-- name: take_up_upload  index: uploads_pkey
with piece as (
  insert into pieces (tenant_id, piece_id, blob_id, start)
  select $1, $5::uuid, uploads.blob_id, $6::bigint from uploads
  where tenant_id = $1 and session_id = $2 and attachment_id = $3
)
update uploads set epoch = epoch + 1, touch_time = $4::timestamptz
where tenant_id = $1 and session_id = $2 and attachment_id = $3

-- name: settle_pieces  index: pieces_by_blob
-- Gives the pieces $3 of blob $2 the lengths $4, and marks its other pieces to be dropped after $5. Run it before
-- take_up_upload.
update pieces p
set length = coalesce(k.length, p.length), drop_time = case when k.length is null then now() + $5::interval end
from (
  select own.ctid as place, given.length
  from (
    select pieces.ctid, pieces.piece_id from pieces
    where pieces.tenant_id = $1 and pieces.blob_id = $2::uuid and pieces.drop_time is null
    offset 0
  ) own
  left join unnest($3::uuid[], $4::bigint[]) as given (piece_id, length) on given.piece_id = own.piece_id
) k
where p.ctid = k.place

-- name: touch_upload  index: uploads_pkey
update uploads set touch_time = clock_timestamp()
where tenant_id = $1 and session_id = $2 and attachment_id = $3 and blob_id = $4::uuid and epoch = $5

-- name: discard_upload  index: uploads_pkey pieces_by_blob
with gone as (
  delete from uploads
  where tenant_id = $1 and session_id = $2 and attachment_id = $3 and ($4::integer is null or epoch = $4)
    and ($6::uuid is null or blob_id = $6)
  returning tenant_id, blob_id
)
update pieces set drop_time = now() + $5::interval
where ctid = any (array(
  select p.ctid
  from gone
  cross join lateral (
    select pieces.ctid from pieces
    where pieces.tenant_id = gone.tenant_id and pieces.blob_id = gone.blob_id and pieces.drop_time is null
    offset 0
  ) p
))

-- name: find_uploads  index: uploads_pkey
-- Uploads that the rules need. Locked, so that no transaction discards an upload that is about to complete.
select k.place, u.blob_id, u.epoch, u.body
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, attachment_id, place)
cross join lateral (
  select * from uploads
  where uploads.tenant_id = k.tenant_id and uploads.session_id = k.session_id
    and uploads.attachment_id = k.attachment_id
  for update
) u

-- name: find_attachments  index: attachments_pkey
select k.place, a.seq, a.blob_id, a.body
from unnest((select $1::text[]), (select $2::text[]), (select $3::text[]))
  with ordinality as k (tenant_id, session_id, attachment_id, place)
cross join lateral (
  select * from attachments
  where attachments.tenant_id = k.tenant_id and attachments.session_id = k.session_id
    and attachments.attachment_id = k.attachment_id
  limit 1
) a

-- name: find_blobs  index: blobs_pkey
-- Locks blobs in the order of the arrays, which all writers sort, so that a blob stays until a new attachment refers to
-- it.
select k.place, b.blob_id
from unnest((select $1::text[]), (select $2::bytea[]), (select $3::bigint[]))
  with ordinality as k (tenant_id, sha256, size_bytes, place)
cross join lateral (
  select * from blobs
  where blobs.tenant_id = k.tenant_id and blobs.sha256 = k.sha256 and blobs.size_bytes = k.size_bytes
  for update
) b

-- name: write_attachments
-- Fewer `kept` than requested: another transaction has stored the same content first; the caller starts over.
with kept as (
  insert into blobs (tenant_id, sha256, size_bytes, blob_id)
  select * from unnest($1::text[], $2::bytea[], $3::bigint[], $4::uuid[])
  on conflict do nothing
  returning 1
), listed as (
  insert into attachments (tenant_id, session_id, attachment_id, seq, blob_id, body)
  select * from unnest($5::text[], $6::text[], $7::text[], $8::bigint[], $9::uuid[], $10::bytea[])
  on conflict (tenant_id, session_id, attachment_id) do update set blob_id = excluded.blob_id, body = excluded.body
), released as (
  insert into releases (tenant_id, session_id, attachment_id, blob_id)
  select * from unnest($11::text[], $12::text[], $13::text[], $14::uuid[])
  on conflict (tenant_id, blob_id, session_id, attachment_id) do update set blob_id = excluded.blob_id
)
select count(*) as kept from kept

-- name: finish_uploads  index: uploads_pkey pieces_by_blob
-- Sets the length of the last piece. Drops the pieces of an upload whose content was stored already.
with done as materialized (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::boolean[])
    as k (tenant_id, session_id, attachment_id, blob_id, size_bytes, kept)
), gone as (
  delete from uploads where ctid = any (array(
    select u.ctid
    from done
    cross join lateral (
      select uploads.ctid from uploads
      where uploads.tenant_id = done.tenant_id and uploads.session_id = done.session_id
        and uploads.attachment_id = done.attachment_id
      limit 1
    ) u
  ))
)
update pieces p
set length = coalesce(p.length, k.size_bytes - p.start), drop_time = case when k.kept then null else now() end
from (
  select own.ctid as place, done.size_bytes, done.kept
  from done
  cross join lateral (
    select pieces.ctid from pieces
    where pieces.tenant_id = done.tenant_id and pieces.blob_id = done.blob_id and pieces.drop_time is null
    offset 0
  ) own
) k
where p.ctid = k.place

-- name: delete_files  index: attachments_pkey uploads_pkey pieces_by_blob
-- Deletes everything of the sessions' attachments. Pieces that are being written are dropped after the grace period $3, in
-- which their writers notice.
with keys as materialized (
  select * from unnest($1::text[], $2::text[]) as k (tenant_id, session_id)
), removed as (
  delete from attachments where ctid = any (array(
    select a.ctid
    from keys k
    cross join lateral (
      select attachments.ctid from attachments
      where attachments.tenant_id = k.tenant_id and attachments.session_id = k.session_id
      offset 0
    ) a
  ))
  returning tenant_id, session_id, attachment_id, blob_id
), released as (
  insert into releases (tenant_id, session_id, attachment_id, blob_id)
  select * from removed where blob_id is not null
  -- A session that had the id before may have released the same. The update waits for a reaper that removes that row.
  on conflict (tenant_id, blob_id, session_id, attachment_id) do update set blob_id = excluded.blob_id
), gone as (
  delete from uploads where ctid = any (array(
    select u.ctid
    from keys k
    cross join lateral (
      select uploads.ctid from uploads
      where uploads.tenant_id = k.tenant_id and uploads.session_id = k.session_id
      offset 0
    ) u
  ))
  returning tenant_id, blob_id
)
update pieces set drop_time = now() + $3::interval
where ctid = any (array(
  select p.ctid
  from gone
  cross join lateral (
    select pieces.ctid from pieces
    where pieces.tenant_id = gone.tenant_id and pieces.blob_id = gone.blob_id and pieces.drop_time is null
    offset 0
  ) p
))

-- name: abandon_uploads  index: uploads_by_touch_time pieces_by_blob
with gone as (
  delete from uploads where ctid = any (array(
    select ctid from uploads
    where touch_time < now() - $1::interval and not lives_elsewhere(tenant_id)
    order by touch_time
    limit $2
    for update skip locked
  ))
  returning tenant_id, blob_id
), dropped as (
  update pieces set drop_time = now()
  where ctid = any (array(
    select p.ctid
    from gone
    cross join lateral (
      select pieces.ctid from pieces
      where pieces.tenant_id = gone.tenant_id and pieces.blob_id = gone.blob_id and pieces.drop_time is null
      offset 0
    ) p
  ))
)
select count(*) from gone

-- name: take_releases
select tenant_id, blob_id, session_id, attachment_id from releases
where not lives_elsewhere(tenant_id)
limit $1
for update skip locked

-- name: lock_released_blobs  index: blobs_by_id
-- Locks blobs that no other transaction has locked. `there` without `locked`: a transaction may be about to refer to it.
select k.place, b.locked is not null as locked, exists (
  select from blobs where blobs.tenant_id = k.tenant_id and blobs.blob_id = k.blob_id
) as there
from unnest((select $1::text[]), (select $2::uuid[])) with ordinality as k (tenant_id, blob_id, place)
left join lateral (
  select true as locked from blobs
  where blobs.tenant_id = k.tenant_id and blobs.blob_id = k.blob_id
  for update skip locked
) b on true

-- name: drop_blobs  index: blobs_by_id attachments_by_blob pieces_by_blob
-- Must be a separate statement after lock_released_blobs, to see what earlier holders of the locks have committed.
with gone as (
  delete from blobs where ctid = any (array(
    select b.ctid
    from unnest((select $1::text[]), (select $2::uuid[])) as k (tenant_id, blob_id)
    cross join lateral (
      select blobs.ctid from blobs
      where blobs.tenant_id = k.tenant_id and blobs.blob_id = k.blob_id
        and not exists (
          select from attachments
          where attachments.tenant_id = k.tenant_id and attachments.blob_id = k.blob_id
        )
      limit 1
    ) b
  ))
  returning tenant_id, blob_id
)
update pieces set drop_time = now()
where ctid = any (array(
  select p.ctid
  from gone
  cross join lateral (
    select pieces.ctid from pieces
    where pieces.tenant_id = gone.tenant_id and pieces.blob_id = gone.blob_id and pieces.drop_time is null
    offset 0
  ) p
))

-- name: forget_releases  index: releases_pkey
delete from releases where ctid = any (array(
  select r.ctid
  from unnest((select $1::text[]), (select $2::uuid[]), (select $3::text[]), (select $4::text[]))
    as k (tenant_id, blob_id, session_id, attachment_id)
  cross join lateral (
    select releases.ctid from releases
    where releases.tenant_id = k.tenant_id and releases.blob_id = k.blob_id
      and releases.session_id = k.session_id and releases.attachment_id = k.attachment_id
    limit 1
  ) r
))

-- name: dropped_pieces  index: pieces_to_drop
select tenant_id, piece_id from pieces
where drop_time <= now() and not lives_elsewhere(tenant_id)
order by drop_time
limit $1

-- name: forget_pieces  index: pieces_pkey
delete from pieces where ctid = any (array(
  select p.ctid
  from unnest((select $1::text[]), (select $2::uuid[])) as k (tenant_id, piece_id)
  cross join lateral (
    select pieces.ctid from pieces
    where pieces.tenant_id = k.tenant_id and pieces.piece_id = k.piece_id and pieces.drop_time is not null
    limit 1
  ) p
))

-- name: unknown_pieces  index: pieces_pkey
select k.place
from unnest((select $1::text[]), (select $2::uuid[])) with ordinality as k (tenant_id, piece_id, place)
left join lateral (
  select true as known from pieces
  where pieces.tenant_id = k.tenant_id and pieces.piece_id = k.piece_id
  limit 1
) p on true
where p.known is null
