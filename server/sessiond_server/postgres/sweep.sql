-- Expiry, and removal after a retention. Safe on many replicas: each skips rows that another one has locked. Rows of tenants
-- that live in another database are left alone: they are on their way here, or have left.

-- name: lock_due  index: session_heads_to_check
select tenant_id, session_id, version, user_id, core, limits, content_version, delete_time is not null as deleted,
  lease_expire_time, content_sizes, fork_seq, forked
from session_heads
where expire_check_time <= now() and not lives_elsewhere(tenant_id) and tenant_id <> all ($2::text[])
order by expire_check_time
limit $1
for update skip locked

-- name: lock_overdue_approvals  index: tool_calls_to_expire session_heads_pkey
-- The sessions of tool calls whose approval did not come in time. Columns as of lock_due. A session has at most 256 open
-- calls.
select h.tenant_id, h.session_id, h.version, h.user_id, h.core, h.limits, h.content_version,
  h.delete_time is not null as deleted, h.lease_expire_time, h.content_sizes, h.fork_seq, h.forked
from (
  select distinct due.tenant_id, due.session_id from (
    select t.tenant_id, t.session_id from tool_calls t
    where t.awaits_approval and t.expire_time <= now()
      and not lives_elsewhere(t.tenant_id) and t.tenant_id <> all ($2::text[])
    order by t.expire_time
    limit $1::bigint * 256
  ) due
  limit $1
) k
cross join lateral (
  select * from session_heads
  where session_heads.tenant_id = k.tenant_id and session_heads.session_id = k.session_id
  for update skip locked
) h

-- name: postpone_checks  index: session_heads_pkey
update session_heads h
set expire_check_time = k.expire_check_time
from unnest($1::text[], $2::text[], $3::timestamptz[]) as k (tenant_id, session_id, expire_check_time)
where h.tenant_id = k.tenant_id and h.session_id = k.session_id

-- name: purge_requests  index: requests_by_create_time
delete from requests where ctid = any (array(
  select ctid from requests
  where create_time < now() - $1::interval and not lives_elsewhere(tenant_id)
  order by create_time
  limit $2
  for update skip locked
))

-- name: purge_tombstones  index: session_heads_deleted requests_pkey events_pkey
with purged as materialized (
  select ctid as head, tenant_id, session_id from session_heads
  where delete_time < now() - $1::interval and not lives_elsewhere(tenant_id)
  order by delete_time
  limit $2
  for update skip locked
), events_of as (
  delete from events where ctid = any (array(
    select e.ctid
    from purged
    cross join lateral (
      select events.ctid from events
      where events.tenant_id = purged.tenant_id and events.session_id = purged.session_id
      offset 0
    ) e
  ))
), requests_of as (
  delete from requests where ctid = any (array(
    select r.ctid
    from purged
    cross join lateral (
      select requests.ctid from requests
      where requests.tenant_id = purged.tenant_id and requests.session_id = purged.session_id
      offset 0
    ) r
  ))
)
delete from session_heads where ctid = any (array(select head from purged))
