-- For how long tenants keep ended sessions (docs/decisions/0057-holds-and-retention.md). Servers of the version before don't
-- know it, and remove nothing.

create table retention_policies (
  tenant_id text collate "C" primary key,
  ended_retention interval,
  actor text collate "C" not null,
  update_time timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.05);
