-- Statements for documents. See write.sql for "cross join lateral" and "(select $1)". In all statements, 3 is
-- DOCUMENT_SCOPE_USER and 4 DOCUMENT_SCOPE_SESSION. `{name}` is the text of another block, of this file or of write.sql,
-- without its leading "with".

-- name: look_up_all  index: documents_pkey requests_pkey events_message_key events_contents
-- look_up, before it the locks of documents, in the order of the arrays, and behind it find_session_contents: one round
-- trip for all three. The time of look_up is read after the locks. What is looked up of sessions is guarded by the heads,
-- locked before; request ids of documents are guarded by the documents, so they need another statement.
select 3 as kind, k.place, null::timestamptz as now, null::bytea as fingerprint, d.version as first_seq,
  null::bigint as last_seq, d.create_time, d.update_time, d.expire_time, d.delete_time is not null as deleted,
  null::bytea[] as chain
from unnest((select :document_tenant_id::text[]), (select :document_scope::smallint[]),
  (select :document_scope_id::text[]), (select :document_key::text[]))
  with ordinality as k (tenant_id, scope, scope_id, key, place)
cross join lateral (
  select * from documents
  where documents.tenant_id = k.tenant_id and documents.scope = k.scope and documents.scope_id = k.scope_id
    and documents.key = k.key
  for update
) d
union all
select look.*, null, null, null, null, null from (
{look_up}
) look
union all
select 4, content.place, null, null, null, null, null, null, null, null, content.chain from (
{find_session_contents}
) content

-- name: lock_free_documents  index: documents_pkey
-- Locks documents in the order of the arrays, and skips locked rows instead of waiting for them.
select k.place
from unnest((select $1::text[]), (select $2::smallint[]), (select $3::text[]), (select $4::text[]))
  with ordinality as k (tenant_id, scope, scope_id, key, place)
cross join lateral (
  select 1 from documents
  where documents.tenant_id = k.tenant_id and documents.scope = k.scope and documents.scope_id = k.scope_id
    and documents.key = k.key
  for update skip locked
) d

-- name: present_documents  index: documents_pkey
-- Distinguishes a row that lock_free_documents skipped from one that does not exist.
select k.place
from unnest((select $1::text[]), (select $2::smallint[]), (select $3::text[]), (select $4::text[]))
  with ordinality as k (tenant_id, scope, scope_id, key, place)
cross join lateral (
  select 1 from documents
  where documents.tenant_id = k.tenant_id and documents.scope = k.scope and documents.scope_id = k.scope_id
    and documents.key = k.key
  limit 1
) d

-- name: find_document_requests  index: document_requests_pkey
select k.place, r.fingerprint, r.change
from unnest((select $1::text[]), (select $2::smallint[]), (select $3::text[]), (select $4::text[]))
  with ordinality as k (tenant_id, scope, scope_id, request_id, place)
cross join lateral (
  select * from document_requests r
  where r.tenant_id = k.tenant_id and r.scope = k.scope and r.scope_id = k.scope_id and r.request_id = k.request_id
  limit 1
) r

-- part: document_changes
-- Fewer rows created or recorded than requested: another transaction was first; the caller starts over. The arrays are
-- sorted by key, so that two transactions that create the same documents wait for each other in one order.
document_rows as materialized (
  select * from unnest(:document_created::boolean[], :document_tenant_id::text[], :document_scope::smallint[],
    :document_scope_id::text[], :document_key::text[], :document_version::bigint[],
    :document_create_time::timestamptz[], :document_update_time::timestamptz[], :document_expire_time::timestamptz[],
    :document_delete_time::timestamptz[], :document_user_readable::boolean[], :document_labels::jsonb[],
    :document_body::bytea[], :document_value::bytea[])
    as d (created, tenant_id, scope, scope_id, key, version, create_time, update_time, expire_time, delete_time,
      user_readable, labels, body, value)
), created_documents as (
  insert into documents (tenant_id, scope, scope_id, key, version, create_time, update_time, expire_time, delete_time,
    user_readable, labels, body, value)
  select tenant_id, scope, scope_id, key, version, create_time, update_time, expire_time, delete_time, user_readable,
    labels, body, value
  from document_rows where created
  on conflict do nothing
  returning 1
), changed_documents as (
  insert into documents (tenant_id, scope, scope_id, key, version, create_time, update_time, expire_time, delete_time,
    user_readable, labels, body, value)
  select tenant_id, scope, scope_id, key, version, create_time, update_time, expire_time, delete_time, user_readable,
    labels, body, value
  from document_rows where not created
  on conflict (tenant_id, scope, scope_id, key) do update
  set version = excluded.version, create_time = excluded.create_time, update_time = excluded.update_time,
    expire_time = excluded.expire_time, delete_time = excluded.delete_time, user_readable = excluded.user_readable,
    labels = excluded.labels, body = excluded.body, value = excluded.value
), recorded_documents as (
  insert into document_requests (tenant_id, scope, scope_id, request_id, fingerprint, change, create_time)
  select k.*, :now::timestamptz
  from unnest(:document_request_tenant_id::text[], :document_request_scope::smallint[],
    :document_request_scope_id::text[], :document_request_request_id::text[], :document_request_fingerprint::bytea[],
    :document_request_change::bytea[]) as k
  on conflict do nothing
  returning 1
)

-- name: write_documents
with {document_changes}
select (select count(*) from created_documents) + (select count(*) from recorded_documents) as written

-- name: write_log_and_documents
-- write_log, and the documents of the batch: one round trip less than two statements.
with {document_changes}, {write_log}
returning (select count(*) from created_documents) + (select count(*) from recorded_documents) as written

-- name: get_documents  index: documents_pkey session_heads_pkey
-- Reads nothing of documents that the caller may not see.
with found as materialized (
  select k.place, d.body, d.value
  from unnest((select $3::smallint[]), (select $4::text[]), (select $5::text[]))
    with ordinality as k (scope, scope_id, key, place)
  cross join lateral (
    select documents.body, documents.value from documents
    where documents.tenant_id = $1 and documents.scope = k.scope and documents.scope_id = k.scope_id
      and documents.key = k.key
      and documents.delete_time is null and (documents.expire_time is null or documents.expire_time > now())
      and ($2 = '' or k.scope = 4 or k.scope = 3 and k.scope_id = $2 or documents.user_readable)
      and (k.scope <> 4 or exists (
        select 1 from session_heads h
        where h.tenant_id = $1 and h.session_id = k.scope_id and h.delete_time is null
          and ($2 = '' or h.user_id = $2)
      ))
    limit 1
  ) d
), sized as (
  select *, row_number() over onwards as number,
    sum(octet_length(body) + octet_length(value)) over onwards as bytes
  from found
  window onwards as (order by place rows unbounded preceding)
)
select place, case when number = 1 or bytes <= $6 then array[body, value] else '{}'::bytea[] end as document
from sized order by place

-- name: purge_documents  index: documents_to_expire
-- Expired documents become tombstones. sweep.sql says whose rows are left alone.
update documents
set delete_time = now(), expire_time = null, user_readable = false, labels = '{}', body = '', value = ''
where ctid = any (array(
  select ctid from documents
  where expire_time <= now() and not lives_elsewhere(tenant_id) and not is_held_document(tenant_id, scope, scope_id)
  order by expire_time
  limit $1
  for update skip locked
))

-- name: purge_document_tombstones  index: documents_ended
delete from documents where ctid = any (array(
  select ctid from documents
  where delete_time < now() - $1::interval and not lives_elsewhere(tenant_id)
  order by delete_time
  limit $2
  for update skip locked
))

-- name: purge_document_requests  index: document_requests_by_create_time
delete from document_requests where ctid = any (array(
  select ctid from document_requests
  where create_time < now() - $1::interval and not lives_elsewhere(tenant_id)
  order by create_time
  limit $2
  for update skip locked
))
