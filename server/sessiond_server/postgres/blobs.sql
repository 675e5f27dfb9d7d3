-- Bytes of attachments. $1 and $2 are tenant and piece. Rows are numbered from 0; all but the last have the same size.

-- name: length  index: blob_rows_pkey
select number, octet_length(data) from blob_rows
where tenant_id = $1 and piece_id = $2
order by number desc
limit 1

-- name: read  index: blob_rows_pkey
-- Returns one value: a value per row costs Postgres a third more CPU time, and this process twice as much. A missing row
-- shows in the length, because all rows but a piece's last have the same size.
select string_agg(data, ''::bytea order by number) from blob_rows
where tenant_id = $1 and piece_id = $2 and number >= $3 and number < $4

-- name: delete  index: blob_rows_pkey
-- Deletes some rows at a time: a transaction that deletes gigabytes would delay the clean-up of everything else.
delete from blob_rows where ctid = any (array(
  select ctid from blob_rows
  where tenant_id = $1 and piece_id = $2
  order by number
  limit $3
))

-- name: pieces  index: blob_rows_pkey
-- At most $3 pieces after the given one, and whether their tenants live in another database; steps from piece to piece
-- in the index.
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
select tenant_id, piece_id, lives_elsewhere(tenant_id) as elsewhere from found
order by place
