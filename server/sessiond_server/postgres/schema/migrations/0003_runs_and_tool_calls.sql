-- Runs and tool calls. Servers of the version before know none of it: they leave the new column as it is, and serve no
-- RPC that would write the new tables.

create table runs (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  run_id text collate "C" not null,
  place bigint not null,
  status smallint not null,
  body bytea not null,
  primary key (tenant_id, session_id, run_id)
);

create index runs_by_status
  on runs (tenant_id collate "POSIX", session_id collate "POSIX", status, place);

create table tool_calls (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  tool_call_id text collate "C" not null,
  seq bigint not null,
  status smallint not null,
  awaits_approval boolean not null,
  create_time timestamptz not null,
  result_seq bigint not null,
  run_id text collate "C" not null,
  user_id text collate "C" not null,
  body bytea not null,
  primary key (tenant_id, session_id, tool_call_id)
);

create index tool_calls_by_status
  on tool_calls (tenant_id collate "POSIX", session_id collate "POSIX", status, seq);
create index tool_calls_by_run
  on tool_calls (tenant_id collate "POSIX", session_id collate "POSIX", run_id, seq)
  where run_id <> '';
create index tool_calls_pending
  on tool_calls (tenant_id, create_time, session_id, seq)
  where awaits_approval;
create index tool_calls_pending_by_user
  on tool_calls (tenant_id, user_id, create_time, session_id, seq)
  where awaits_approval and user_id <> '';

create table run_figures (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  figures bytea not null,
  primary key (tenant_id, session_id)
);

-- Takes a moment once it has its lock, for which it waits no longer than others may be held up behind it. The last
-- statement, since the lock is held to the end of the transaction.
set local lock_timeout = '1s';
alter table session_heads add column lease_expire_time timestamptz;
