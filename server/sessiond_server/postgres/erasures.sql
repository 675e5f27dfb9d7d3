-- Erasures of users: store/erasures.py has their contract.

-- name: begin_erasure
-- Nothing happens where one is under way, or where the last one was begun by the same request.
insert into erasures as e (tenant_id, user_id, erasure_id, request_id)
values ($1, $2, $3, $4)
on conflict (tenant_id, user_id) do update
set erasure_id = excluded.erasure_id, request_id = excluded.request_id, create_time = now(), end_time = null, report = null,
  lease_expire_time = now(), session_count = 0, document_count = 0
where e.end_time is not null and (excluded.request_id = '' or e.request_id <> excluded.request_id)

-- name: get_erasure  index: erasures_pkey
select erasure_id, session_count, document_count, create_time, end_time,
  end_time is null and holds_erasure(tenant_id, user_id) as held, request_id, report
from erasures
where tenant_id = $1 and user_id = $2

-- name: list_erasures  index: erasures_pkey
-- As get_erasure, with the user, and without reports. $2: only that user's; empty: all.
select user_id, erasure_id, session_count, document_count, create_time, end_time,
  end_time is null and holds_erasure(tenant_id, user_id) as held, request_id, null as report
from erasures
where tenant_id = $1 and ($2 = '' or user_id = $2) and user_id > $3
order by user_id
limit $4

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

-- name: sessions_to_erase  index: sessions_by_user session_heads_pkey
select k.session_id, h.version, h.core
from (
  select s.session_id, s.create_time from sessions s
  where s.tenant_id = $1 and s.user_id = $2 and s.user_id <> '' and not is_held(s.tenant_id, s.session_id, s.user_id)
  order by s.create_time, s.session_id
  limit $3
) k
cross join lateral (
  select session_heads.version, session_heads.core from session_heads
  where session_heads.tenant_id = $1 and session_heads.session_id = k.session_id
  limit 1
) h
order by k.create_time, k.session_id

-- name: note_sessions  index: erasure_sessions_pkey
insert into erasure_sessions (tenant_id, user_id, session_id, events, messages, attachments, attachment_bytes)
select $1, $2, * from unnest($3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
on conflict (tenant_id, user_id, session_id) do update
set events = excluded.events, messages = excluded.messages, attachments = excluded.attachments,
  attachment_bytes = excluded.attachment_bytes

-- name: noted_deletions  index: erasure_sessions_pkey session_heads_pkey
select n.session_id, h.version
from erasures e
cross join lateral (
  select erasure_sessions.session_id from erasure_sessions
  where erasure_sessions.tenant_id = e.tenant_id and erasure_sessions.user_id = e.user_id
    and erasure_sessions.session_id > $4
  order by erasure_sessions.session_id
) n
cross join lateral (
  select session_heads.version from session_heads
  where session_heads.tenant_id = $1 and session_heads.session_id = n.session_id
    and session_heads.delete_time is not null
  limit 1
) h
where e.tenant_id = $1 and e.user_id = $2 and e.claims = $3 and e.end_time is null
order by n.session_id
limit $5

-- name: count_noted  index: erasure_sessions_pkey
select count(*) as sessions, coalesce(sum(events), 0)::bigint as events, coalesce(sum(messages), 0)::bigint as messages,
  coalesce(sum(attachments), 0)::bigint as attachments, coalesce(sum(attachment_bytes), 0)::bigint as attachment_bytes,
  encode(sha256(convert_to(coalesce(string_agg(session_id || E'\n', '' order by session_id), ''), 'UTF8')), 'hex')
    as session_ids_sha256
from erasure_sessions
where tenant_id = $1 and user_id = $2

-- name: forget_noted  index: erasure_sessions_pkey
delete from erasure_sessions where tenant_id = $1 and user_id = $2

-- name: report_erasure  index: erasures_pkey
update erasures set report = $3, session_count = $4::bigint where tenant_id = $1 and user_id = $2

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
  end_time = case when $6::boolean and not holds_erasure(tenant_id, user_id) then now() end
where tenant_id = $1 and user_id = $2 and claims = $3 and end_time is null
returning erasure_id, document_count, create_time, end_time
