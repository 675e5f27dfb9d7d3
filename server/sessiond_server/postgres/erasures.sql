-- Erasures of users: store/erasures.py has their contract.

-- name: begin_erasure
-- Nothing happens where one is under way, or where the last one was begun by the same request.
insert into erasures as e (tenant_id, user_id, erasure_id, request_id)
values ($1, $2, $3, $4)
on conflict (tenant_id, user_id) do update
set erasure_id = excluded.erasure_id, request_id = excluded.request_id, create_time = now(), end_time = null,
  lease_expire_time = now(), session_count = 0, document_count = 0
where e.end_time is not null and (excluded.request_id = '' or e.request_id <> excluded.request_id)

-- name: get_erasure  index: erasures_pkey
select erasure_id, session_count, document_count, create_time, end_time from erasures
where tenant_id = $1 and user_id = $2

-- name: claim_erasure  index: erasures_running
update erasures e
set lease_expire_time = now() + $1::double precision * interval '1 s', claims = e.claims + 1
from (
  select tenant_id, user_id from erasures
  where end_time is null and lease_expire_time <= now() and not lives_elsewhere(tenant_id)
  order by lease_expire_time
  limit 1
  for update skip locked
) due
where e.tenant_id = due.tenant_id and e.user_id = due.user_id
returning e.tenant_id, e.user_id, e.claims

-- name: sessions_to_erase  index: sessions_by_user
select session_id from sessions
where tenant_id = $1 and user_id = $2 and user_id <> ''
order by create_time, session_id
limit $3

-- name: hold_erasure  index: erasures_pkey
-- Locks the erasure while the claim $3 holds.
select 1 from erasures
where tenant_id = $1 and user_id = $2 and claims = $3 and end_time is null
for update

-- name: erase_documents_of_user  index: documents_pkey
-- 3 is DOCUMENT_SCOPE_USER.
delete from documents where ctid = any (array(
  select ctid from documents
  where tenant_id = $1 and scope = 3 and scope_id = $2
  limit $3
  for update
))

-- name: erase_document_requests_of_user  index: document_requests_pkey
delete from document_requests where ctid = any (array(
  select ctid from document_requests
  where tenant_id = $1 and scope = 3 and scope_id = $2
  limit $3
  for update
))

-- name: deleted_sessions_of_user  index: session_heads_deleted_of_user
select session_id from session_heads
where tenant_id = $1 and user_id = $2 and delete_time is not null and session_id > $3
order by session_id
limit $4

-- name: erase_names  index: documents_pkey
-- Deletions of sessions leave the names of their documents. 4 is DOCUMENT_SCOPE_SESSION.
delete from documents where ctid = any (array(
  select d.ctid
  from unnest($2::text[]) as k (session_id)
  cross join lateral (
    select documents.ctid from documents
    where documents.tenant_id = $1 and documents.scope = 4 and documents.scope_id = k.session_id
      and documents.delete_time is not null
    offset 0
    for update
  ) d
))

-- name: count_erased  index: erasures_pkey
update erasures set document_count = document_count + $3::bigint
where tenant_id = $1 and user_id = $2

-- name: advance_erasure  index: erasures_pkey
update erasures
set session_count = session_count + $4::bigint, lease_expire_time = now() + $5::double precision * interval '1 s',
  end_time = case when $6::boolean then now() end
where tenant_id = $1 and user_id = $2 and claims = $3 and end_time is null
returning 1
