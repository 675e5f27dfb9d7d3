-- Documents: small values of tenants, agents, users and sessions.

create table documents (
  tenant_id text collate "C" not null,
  scope smallint not null,
  scope_id text collate "C" not null,
  key text collate "C" not null,
  version bigint not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  expire_time timestamptz,
  delete_time timestamptz,
  user_readable boolean not null,
  labels jsonb not null,
  body bytea not null,
  value bytea not null,
  primary key (tenant_id, scope, scope_id, key)
);

alter table documents alter column value set storage external;

create index documents_labels on documents using gin (labels jsonb_path_ops)
  where labels <> '{}';
create index documents_user_readable on documents (tenant_id, scope, scope_id, key)
  where user_readable;
create index documents_to_expire on documents (expire_time)
  where expire_time is not null;
create index documents_ended on documents (delete_time)
  where delete_time is not null;

create table document_requests (
  tenant_id text collate "C" not null,
  scope smallint not null,
  scope_id text collate "C" not null,
  request_id text collate "C" not null,
  create_time timestamptz not null,
  fingerprint bytea not null,
  change bytea not null,
  primary key (tenant_id, scope, scope_id, request_id)
);

create index document_requests_by_create_time on document_requests (create_time);
