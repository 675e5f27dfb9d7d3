-- What has arrived of sessions that are being imported (docs/decisions/0048-exports-and-imports.md). The session itself is
-- written in one transaction, from these rows.

-- Imports. The epoch counts the calls that have begun or taken up the import: only the last one may write.
create table imports (
  tenant_id text collate "C" not null,
  -- Its rows in the other tables have this number. An import that was given up and begins anew has another.
  stage_id uuid not null,
  import_id text collate "C" not null,
  epoch integer not null,
  -- The last record that has arrived, and its digest.
  line bigint not null,
  digest bytea not null,
  -- seq of the attachment of which bytes have arrived last, and how many.
  attachment_seq bigint not null,
  attachment_offset bigint not null,
  -- -infinity: it is complete, or was given up; what is left of it is to be removed.
  touch_time timestamptz not null,
  primary key (tenant_id, stage_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create unique index imports_unfinished on imports (tenant_id, import_id)
  where touch_time > '-infinity';
create index imports_by_touch_time on imports (touch_time);

-- Their events, as in `events`.
create table import_events (
  tenant_id text collate "C" not null,
  stage_id uuid not null,
  seq bigint not null,
  create_time timestamptz not null,
  type smallint not null,
  message_id text collate "C",
  -- As in message_marks; null: none.
  marks text[] collate "C",
  head bytea not null,
  body bytea not null,
  content bytea,
  primary key (tenant_id, stage_id, seq)
) with (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_scale_factor = 0.05);

create unique index import_events_messages on import_events (tenant_id, stage_id, message_id)
  where message_id is not null;

-- As events.body.
alter table import_events alter column body set storage external;
alter table import_events alter column content set storage external;

-- The last state of their runs (kind 1) and tool calls (kind 2), as in `runs` and `tool_calls`. A run has its place as seq.
create table import_work (
  tenant_id text collate "C" not null,
  stage_id uuid not null,
  kind smallint not null,
  id text collate "C" not null,
  seq bigint not null,
  status smallint not null,
  awaits_approval boolean,
  create_time timestamptz,
  expire_time timestamptz,
  result_seq bigint,
  run_id text collate "C",
  body bytea not null,
  primary key (tenant_id, stage_id, kind, id)
) with (autovacuum_vacuum_scale_factor = 0.05);

-- Their attachments, as in `attachments`. The pieces of a blob that is not complete have a drop_time.
create table import_files (
  tenant_id text collate "C" not null,
  stage_id uuid not null,
  attachment_id text collate "C" not null,
  seq bigint not null,
  -- Null: it was deleted.
  blob_id uuid,
  sha256 bytea not null,
  size_bytes bigint not null,
  body bytea not null,
  primary key (tenant_id, stage_id, attachment_id)
) with (autovacuum_vacuum_scale_factor = 0.05);
