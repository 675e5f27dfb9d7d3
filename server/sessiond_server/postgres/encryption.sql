-- The wrapped data keys of tenants (docs/decisions/0058-encryption.md). schema.sql explains the tables.

-- name: keys  index: tenant_keys_pkey
select key_id, kek_id, wrapped, active from tenant_keys
where tenant_id = $1
order by create_time, key_id

-- name: add_first_key  index: tenant_keys_pkey
-- Two servers may be first at the same time: they wait for each other.
with alone as materialized (
  select pg_advisory_xact_lock(hashtextextended($1, 7298))
)
insert into tenant_keys (tenant_id, key_id, kek_id, wrapped, active, version)
select $1, $2, $3, $4, true, (select version from encryption_state)
from alone
where not exists (select from tenant_keys t where t.tenant_id = $1) and not lives_elsewhere($1)

-- name: changed  index: tenant_keys_by_version
select s.version, array(
  select distinct k.tenant_id from tenant_keys k where $1::bigint >= 0 and k.version > $1 and k.version <= s.version
) as tenants
from encryption_state s

-- name: one_of_each
-- A key for each key-encryption key that has wrapped one, a destroyed one where there is no other: as many as there are of
-- those, which are few.
select distinct on (kek_id) tenant_id, key_id, kek_id, wrapped from tenant_keys
order by kek_id, wrapped is null, tenant_id, key_id

-- name: next_version
update encryption_state set version = version + 1 returning version

-- name: status
select tenant_id, count(*) as keys, count(*) filter (where wrapped is null) > 0 as destroyed,
  array_agg(distinct kek_id) as keks, max(create_time) as newest
from tenant_keys
where tenant_id > $1
group by tenant_id
order by tenant_id
limit $2

-- name: lock_keys  index: tenant_keys_pkey
select key_id, kek_id, wrapped, active from tenant_keys
where tenant_id = $1
order by create_time, key_id
for update

-- name: add_key
insert into tenant_keys (tenant_id, key_id, kek_id, wrapped, active, version) values ($1, $2, $3, $4, false, $5)

-- name: activate  index: tenant_keys_pkey
update tenant_keys set active = key_id = $2, version = $3
where tenant_id = $1

-- name: wrapped_by_others
-- Keys that another key-encryption key than $1 has wrapped, behind ($2, $3).
select tenant_id, key_id, kek_id, wrapped from tenant_keys
where kek_id <> $1 and wrapped is not null and (tenant_id, key_id) > ($2, $3)
order by tenant_id, key_id
limit 200

-- name: rewrap  index: tenant_keys_pkey
-- Only if it is still as it was.
update tenant_keys set kek_id = $3, wrapped = $4
where tenant_id = $1 and key_id = $2 and wrapped = $5

-- name: destroy_keys  index: tenant_keys_pkey
update tenant_keys set wrapped = null, active = false, version = $2
where tenant_id = $1

-- name: destroyed_marker
-- A tenant without keys gets a destroyed one, so that what it had stored in the clear cannot be read either.
insert into tenant_keys (tenant_id, key_id, kek_id, wrapped, active, version)
select $1, 0, '', null, false, $2
where not exists (select from tenant_keys t where t.tenant_id = $1)

-- name: leave_unswept  index: session_heads_pkey
-- Nothing of them can be read, so nothing of them can be ended.
update session_heads set expire_check_time = null
where tenant_id = $1 and expire_check_time is not null

-- name: next_tenant  index: session_heads_pkey documents_pkey
-- The next tenant with data behind $1, and whether it lives elsewhere.
select tenant_id, lives_elsewhere(tenant_id) as elsewhere from (
  select least(
    (select min(tenant_id) from session_heads where tenant_id > $1),
    (select min(tenant_id) from documents where tenant_id > $1)
  ) as tenant_id
) next
