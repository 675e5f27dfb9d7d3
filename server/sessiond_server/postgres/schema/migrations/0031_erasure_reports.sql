-- Reports of erasures (docs/decisions/0057-holds-and-retention.md). Erasures that ended before have none.

alter table erasures add column report text;

create table erasure_sessions (
  tenant_id text collate "C" not null,
  user_id text collate "C" not null,
  session_id text collate "C" not null,
  events bigint not null,
  messages bigint not null,
  attachments bigint not null,
  attachment_bytes bigint not null,
  primary key (tenant_id, user_id, session_id)
) with (autovacuum_vacuum_scale_factor = 0.05);
