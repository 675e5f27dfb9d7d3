-- Erasures of users (docs/decisions/0053-erasures.md). Servers of the version before don't know them.

create table erasures (
  tenant_id text collate "C" not null,
  user_id text collate "C" not null,
  erasure_id text collate "C" not null,
  request_id text collate "C" not null,
  create_time timestamptz not null default now(),
  end_time timestamptz,
  lease_expire_time timestamptz not null default now(),
  claims bigint not null default 0,
  session_count bigint not null default 0,
  document_count bigint not null default 0,
  primary key (tenant_id, user_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index erasures_running on erasures (lease_expire_time)
  where end_time is null;
