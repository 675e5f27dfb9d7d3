-- Bytes of attachments. $1 and $2 are tenant and piece; rows are numbered from 0 and of one size, but for the last.

-- name: length  index: blob_rows_pkey
select number, octet_length(data) from blob_rows
where tenant_id = $1 and piece_id = $2
order by number desc
limit 1

-- name: read  index: blob_rows_pkey
-- As one value: a value for each row costs Postgres a third more, and us twice as much. A row that is missing shows in
-- its length, since all but a piece's last are of one size.
select string_agg(data, ''::bytea order by number) from blob_rows
where tenant_id = $1 and piece_id = $2 and number >= $3 and number < $4

-- name: delete  index: blob_rows_pkey
-- Some at a time: a transaction that deletes gigabytes would hold up the clean-up of everything else.
delete from blob_rows where ctid = any (array(
  select ctid from blob_rows
  where tenant_id = $1 and piece_id = $2
  order by number
  limit $3
))

-- name: pieces  index: blob_rows_pkey
-- The next pieces behind the one given, at most $3: hops from piece to piece in the index.
with recursive found as (
  (
    select tenant_id, piece_id, 1 as place from blob_rows
    where (tenant_id, piece_id) > ($1::text, $2::uuid)
    order by tenant_id, piece_id
    limit 1
  )
  union all
  select following.tenant_id, following.piece_id, found.place + 1
  from found
  cross join lateral (
    select b.tenant_id, b.piece_id from blob_rows b
    where (b.tenant_id, b.piece_id) > (found.tenant_id, found.piece_id)
    order by b.tenant_id, b.piece_id
    limit 1
  ) following
  where found.place < $3::integer
)
select tenant_id, piece_id from found order by place
