-- Imports of sessions (imports.py). Every statement of a call comes behind take_up or lock_import in its transaction.

-- name: take_up
-- Begins an import, or takes it up.
insert into imports as old
  (tenant_id, stage_id, import_id, epoch, line, digest, attachment_seq, attachment_offset, touch_time)
values ($1, $2::uuid, $3, 1, 1, $4, 0, 0, clock_timestamp())
on conflict (tenant_id, import_id) where touch_time > '-infinity'
do update set epoch = old.epoch + 1, touch_time = excluded.touch_time
returning stage_id, epoch, line, digest, attachment_seq, attachment_offset

-- name: keep_pieces  index: import_files_pkey pieces_by_blob
-- Its pieces stay for $3 from now on. Those that are being removed stay so.
update pieces set drop_time = now() + $3::interval
where ctid = any (array(
  select p.ctid
  from import_files f
  cross join lateral (
    select pieces.ctid from pieces
    where pieces.tenant_id = f.tenant_id and pieces.blob_id = f.blob_id and pieces.drop_time > now()
    offset 0
  ) p
  where f.tenant_id = $1 and f.stage_id = $2::uuid and f.blob_id is not null
))

-- name: find_pieces  index: import_files_pkey pieces_by_blob
-- The pieces that are stored of the attachment at seq $3.
select p.piece_id, p.length
from import_files f
cross join lateral (
  select pieces.piece_id, pieces.length, pieces.start from pieces
  where pieces.tenant_id = f.tenant_id and pieces.blob_id = f.blob_id and pieces.length is not null
    and pieces.drop_time > now()
  offset 0
) p
where f.tenant_id = $1 and f.stage_id = $2::uuid and f.seq = $3 and f.blob_id is not null
order by p.start

-- name: lock_import  index: imports_pkey
select true from imports
where tenant_id = $1 and stage_id = $2::uuid and epoch = $3 and touch_time > '-infinity'
for update

-- name: staged_events  index: import_events_pkey
-- At most $4, of $5 bytes together, but at least one.
select page.seq, page.type, page.head, page.body, page.content
from (
  select e.*, sum(octet_length(e.head) + octet_length(e.body) + coalesce(octet_length(e.content), 0))
    over (order by e.seq rows unbounded preceding) as bytes, row_number() over (order by e.seq) as place
  from (
    select seq, type, head, body, content from import_events
    where tenant_id = $1 and stage_id = $2::uuid and seq > $3
    order by seq
    limit $4
  ) e
) page
where page.place = 1 or page.bytes <= $5
order by page.seq

-- name: add_events
-- Leaves out an event whose message has the id of an earlier one.
insert into import_events
  (tenant_id, stage_id, seq, create_time, type, message_id, marks, head, body, content)
select $1, $2::uuid, e.seq, e.create_time, e.type, e.message_id,
  case when e.marks is not null then array(select jsonb_array_elements_text(e.marks::jsonb)) end, e.head, e.body, e.content
from unnest($3::bigint[], $4::timestamptz[], $5::smallint[], $6::text[], $7::text[], $8::bytea[], $9::bytea[], $10::bytea[])
  as e (seq, create_time, type, message_id, marks, head, body, content)
on conflict (tenant_id, stage_id, message_id) where message_id is not null do nothing
returning seq

-- name: add_work
insert into import_work (tenant_id, stage_id, kind, id, seq, status, awaits_approval, create_time, expire_time, result_seq,
  run_id, body)
select $1, $2::uuid, w.*
from unnest($3::smallint[], $4::text[], $5::bigint[], $6::smallint[], $7::boolean[], $8::timestamptz[], $9::timestamptz[],
  $10::bigint[], $11::text[], $12::bytea[])
  as w (kind, id, seq, status, awaits_approval, create_time, expire_time, result_seq, run_id, body)
on conflict (tenant_id, stage_id, kind, id) do update
set seq = excluded.seq, status = excluded.status, awaits_approval = excluded.awaits_approval,
  create_time = excluded.create_time, expire_time = excluded.expire_time, result_seq = excluded.result_seq,
  run_id = excluded.run_id, body = excluded.body

-- name: add_files
insert into import_files (tenant_id, stage_id, attachment_id, seq, blob_id, sha256, size_bytes, body)
select $1, $2::uuid, f.*
from unnest($3::text[], $4::bigint[], $5::uuid[], $6::bytea[], $7::bigint[], $8::bytea[])
  as f (attachment_id, seq, blob_id, sha256, size_bytes, body)
on conflict (tenant_id, stage_id, attachment_id) do update
set seq = excluded.seq, blob_id = excluded.blob_id, body = excluded.body

-- name: arrive  index: imports_pkey
update imports
set line = $3, digest = $4, attachment_seq = $5, attachment_offset = $6, touch_time = clock_timestamp()
where tenant_id = $1 and stage_id = $2::uuid

-- name: begin_piece  index: import_files_pkey
insert into pieces (tenant_id, piece_id, blob_id, start, drop_time)
select $1, $4::uuid, f.blob_id, $5, now() + $6::interval from import_files f
where f.tenant_id = $1 and f.stage_id = $2::uuid and f.attachment_id = $3 and f.blob_id is not null

-- name: end_piece  index: pieces_pkey
update pieces set length = $3 where tenant_id = $1 and piece_id = $2::uuid

-- name: write_events  index: import_events_pkey
-- The head was written before, in this transaction: all events have its place in the feed.
insert into events (tenant_id, session_id, seq, type, create_time, message_id, head, body, content, commit_xid)
select $1, $3::text, e.seq, e.type, e.create_time, e.message_id, e.head, e.body, e.content, h.commit_xid
from session_heads h
cross join lateral (
  select * from import_events
  where import_events.tenant_id = $1 and import_events.stage_id = $2::uuid
  order by import_events.seq
) e
where h.tenant_id = $1 and h.session_id = $3

-- name: write_marks  index: import_events_pkey
insert into message_marks (tenant_id, session_id, mark, seq)
select $1, $3::text, m.mark, e.seq
from import_events e
cross join lateral unnest(e.marks) as m (mark)
where e.tenant_id = $1 and e.stage_id = $2::uuid and e.marks is not null

-- name: write_runs  index: import_work_pkey
insert into runs (tenant_id, session_id, run_id, place, status, body)
select $1, $3::text, w.id, w.seq, w.status, w.body from import_work w
where w.tenant_id = $1 and w.stage_id = $2::uuid and w.kind = 1

-- name: write_tool_calls  index: import_work_pkey
insert into tool_calls (tenant_id, session_id, tool_call_id, seq, status, awaits_approval, create_time, result_seq, run_id,
  user_id, body, expire_time)
select $1, $3::text, w.id, w.seq, w.status, w.awaits_approval, w.create_time, w.result_seq, w.run_id, $4::text, w.body,
  w.expire_time
from import_work w
where w.tenant_id = $1 and w.stage_id = $2::uuid and w.kind = 2

-- name: write_figures
insert into run_figures (tenant_id, session_id, figures) values ($1, $2, $3)

-- name: add_blobs  index: import_files_pkey
-- The contents that the tenant does not have yet.
insert into blobs (tenant_id, sha256, size_bytes, blob_id)
select distinct on (f.sha256, f.size_bytes) f.tenant_id, f.sha256, f.size_bytes, f.blob_id from import_files f
where f.tenant_id = $1 and f.stage_id = $2::uuid and f.blob_id is not null
order by f.sha256, f.size_bytes, f.seq
on conflict do nothing

-- name: lock_blobs  index: import_files_pkey blobs_pkey
-- In the order in which all writers lock them. A null: the reaper has removed that one meanwhile; start over.
select b.blob_id
from (
  select f.sha256, f.size_bytes from import_files f
  where f.tenant_id = $1 and f.stage_id = $2::uuid and f.blob_id is not null
  group by f.sha256, f.size_bytes
  order by f.sha256, f.size_bytes
  offset 0
) f
left join lateral (
  select blobs.blob_id from blobs
  where blobs.tenant_id = $1 and blobs.sha256 = f.sha256 and blobs.size_bytes = f.size_bytes
  for update
) b on true

-- name: write_files  index: import_files_pkey
insert into attachments (tenant_id, session_id, attachment_id, seq, blob_id, body)
select $1, $3::text, f.attachment_id, f.seq, b.blob_id, f.body
from import_files f
left join blobs b on b.tenant_id = $1 and b.sha256 = f.sha256 and b.size_bytes = f.size_bytes and f.blob_id is not null
where f.tenant_id = $1 and f.stage_id = $2::uuid

-- name: settle_files  index: import_files_pkey pieces_by_blob
-- Keeps the pieces of the blobs that are the import's own, and drops the others. Returns the bytes that are kept, and those
-- that must be.
with own as materialized (
  select f.blob_id, f.size_bytes, exists (
    select from blobs b where b.tenant_id = $1 and b.blob_id = f.blob_id
  ) as kept
  from import_files f
  where f.tenant_id = $1 and f.stage_id = $2::uuid and f.blob_id is not null
), settled as (
  update pieces p
  set drop_time = case when k.kept and p.length is not null then null else now() end
  from (
    select mine.ctid as place, own.kept
    from own
    cross join lateral (
      select pieces.ctid from pieces
      where pieces.tenant_id = $1 and pieces.blob_id = own.blob_id and pieces.drop_time > now()
      offset 0
    ) mine
  ) k
  where p.ctid = k.place
  returning case when k.kept then coalesce(p.length, 0) else 0 end as bytes
)
select coalesce((select sum(bytes) from settled), 0)::bigint as there,
  coalesce((select sum(size_bytes) from own where kept), 0)::bigint as wanted

-- name: drop_files  index: import_files_pkey pieces_by_blob
update pieces set drop_time = now() + $3::interval
where ctid = any (array(
  select p.ctid
  from import_files f
  cross join lateral (
    select pieces.ctid from pieces
    where pieces.tenant_id = f.tenant_id and pieces.blob_id = f.blob_id and pieces.drop_time > now()
    offset 0
  ) p
  where f.tenant_id = $1 and f.stage_id = $2::uuid and f.blob_id is not null
))

-- name: end_import  index: imports_pkey
update imports set touch_time = '-infinity' where tenant_id = $1 and stage_id = $2::uuid

-- name: find_ended  index: imports_by_touch_time
-- One import of which something is left to remove. One that has not moved for $1 is given up, too.
select tenant_id, stage_id from imports
where touch_time < now() - $1::interval and not lives_elsewhere(tenant_id)
order by touch_time
limit 1
for update skip locked

-- name: purge_events  index: import_events_pkey
delete from import_events where ctid = any (array(
  select ctid from import_events where tenant_id = $1 and stage_id = $2::uuid limit $3
))

-- name: purge_work  index: import_work_pkey
delete from import_work where ctid = any (array(
  select ctid from import_work where tenant_id = $1 and stage_id = $2::uuid limit $3
))

-- name: purge_files  index: import_files_pkey
delete from import_files where ctid = any (array(
  select ctid from import_files where tenant_id = $1 and stage_id = $2::uuid limit $3
))

-- name: forget_import  index: imports_pkey
delete from imports where tenant_id = $1 and stage_id = $2::uuid
