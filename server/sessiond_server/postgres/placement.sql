-- Which database this is, and where tenants live. schema.sql explains the tables.

-- name: read
select database_id, group_id, homes_version from placement

-- name: homes
select p.homes_version, p.database_id as here, h.tenant_id, h.database_id, h.leaving, h.token_key
from placement p left join tenant_homes h on true

-- name: home  index: tenant_homes_pkey
select database_id, token_key from tenant_homes where tenant_id = $1

-- name: claim
update placement set database_id = $1, group_id = $2 where database_id in ('', $1) and group_id in ('', $2)
returning true

-- name: lock
-- Every transaction that writes for a tenant locks heads, documents, uploads or imports before it reads homes_version or
-- tenant_homes. So this waits for those that have begun, whose rows `holds` then finds; later ones find the new version.
lock table session_heads, documents, uploads, imports in exclusive mode

-- name: holds
select exists (select from session_heads where tenant_id = $1) or exists (select from documents where tenant_id = $1)
  or exists (select from document_requests where tenant_id = $1)

-- name: holds_any
select exists (select from session_heads) or exists (select from documents) or exists (select from document_requests)

-- name: next_version
select greatest(homes_version + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) from placement

-- name: write_home
-- $4: whether the tenant is about to leave; $5: the key of its tokens. Null keeps what is there.
with home as (
  insert into tenant_homes (tenant_id, database_id, version, leaving, token_key)
  values ($1, $2, $3, coalesce($4::boolean, false), $5)
  on conflict (tenant_id) do update
  set database_id = excluded.database_id, version = excluded.version, leaving = coalesce($4, tenant_homes.leaving),
    token_key = coalesce(excluded.token_key, tenant_homes.token_key)
)
update placement set homes_version = greatest(homes_version + 1, $3)
