-- Templates of sessions (docs/templates.md). Servers of the version before don't know them.
create table templates (
  tenant_id text collate "C" not null,
  template_id text collate "C" not null,
  version bigint not null,
  create_time timestamptz not null,
  delete_time timestamptz,
  body bytea not null,
  -- The last write, which its retry finds; an empty fingerprint: no retry can.
  request_id text not null,
  fingerprint bytea not null,
  primary key (tenant_id, template_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index templates_deleted on templates (delete_time)
  where delete_time is not null;
