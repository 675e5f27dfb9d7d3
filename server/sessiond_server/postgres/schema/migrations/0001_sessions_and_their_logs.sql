-- Sessions, their logs, and the records that make retries exact.
-- Times are the database's; text compares by code points.

-- Which of these files the database has.
create table schema_versions (
  version integer primary key,
  name text not null,
  apply_time timestamptz not null default clock_timestamp()
);

-- Secrets of the service as a whole, made here, never changed.
create table service_keys (
  name text primary key,
  secret bytea not null
);

-- 32 bytes from three UUIDs of version 4: 366 random bits from the server's strong source, without an extension.
insert into service_keys (name, secret)
values (
  'tokens',
  sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'))
);

-- The hot row of each session: all that an append reads and writes. With a delete_time it is a tombstone.
create table session_heads (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  version bigint not null,
  content_version bigint not null,
  update_time timestamptz not null,
  -- When the sweeper must look: never after the session's expire_time, perhaps before it.
  expire_check_time timestamptz,
  delete_time timestamptz,
  user_id text collate "C" not null,
  core bytea not null,
  -- Never null in a stored row. A null in the row that an upsert proposes means: as before (not written anew).
  limits bytea,
  primary key (tenant_id, session_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

create index session_heads_by_update_time on session_heads (tenant_id, update_time, session_id)
  where delete_time is null;
create index session_heads_to_check on session_heads (expire_check_time)
  where expire_check_time is not null;
create index session_heads_deleted on session_heads (delete_time)
  where delete_time is not null;

-- What sessions are listed and filtered by. Appends do not write it; a tombstone has none.
create table sessions (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  type smallint not null,
  status smallint not null,
  create_time timestamptz not null,
  agent_id text collate "C" not null,
  team_id text collate "C" not null,
  workflow_id text collate "C" not null,
  user_id text collate "C" not null,
  name text collate "C" not null,
  -- Of the name, by Unicode's full case folding: what name_contains looks into, whatever the database's locale.
  name_folded text collate "C" not null,
  labels jsonb not null,
  -- As session_heads.limits: never null in a stored row.
  metadata jsonb,
  primary key (tenant_id, session_id)
);

create index sessions_by_create_time on sessions (tenant_id, create_time, session_id);
create index sessions_by_name on sessions (tenant_id, name, session_id);
create index sessions_by_user on sessions (tenant_id, user_id, create_time, session_id)
  where user_id <> '';
create index sessions_by_agent on sessions (tenant_id, agent_id, create_time, session_id)
  where agent_id <> '';
create index sessions_by_team on sessions (tenant_id, team_id, create_time, session_id)
  where team_id <> '';
create index sessions_by_workflow on sessions (tenant_id, workflow_id, create_time, session_id)
  where workflow_id <> '';
-- 4 is SESSION_STATUS_ENDED.
create index sessions_live on sessions (tenant_id)
  where status <> 4;
create index sessions_labels on sessions using gin (labels jsonb_path_ops);
create index sessions_metadata on sessions using gin (metadata jsonb_path_ops);

-- The logs: seq is 1..version of each session, without a gap, except that deletion leaves the final event alone.
create table events (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  seq bigint not null,
  -- Orders the feed of a whole tenant: what is below pg_snapshot_xmin is complete.
  commit_xid xid8 not null default pg_current_xact_id(),
  create_time timestamptz not null,
  type smallint not null,
  message_id text collate "C",
  head bytea not null,
  body bytea not null,
  content bytea,
  primary key (tenant_id, session_id, seq)
);

-- Out of line uncompressed: compressing costs more than the bytes are worth, and many are compressed data already.
alter table events alter column body set storage external;
alter table events alter column content set storage external;

-- The planner knows no more than how many events a session has on average, so it may find that reading a whole log
-- costs the same as the right index, which for a long log is ruin. Hence these two compare tenant and session by
-- "POSIX", which is "C" by another name: a query that says so can use no other index, not even the primary key's.
-- And their conditions do not imply each other. 20 is EVENT_TYPE_MESSAGE_APPENDED.
create unique index events_message_id
  on events (tenant_id collate "POSIX", session_id collate "POSIX", message_id)
  where message_id is not null;
create index events_messages
  on events (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where type = 20;

-- What each request did: events first_seq..last_seq.
create table requests (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  request_id text collate "C" not null,
  first_seq bigint not null,
  last_seq bigint not null,
  create_time timestamptz not null,
  fingerprint bytea not null,
  primary key (tenant_id, session_id, request_id)
);

create index requests_by_create_time on requests (create_time);
