-- Counters of usage (docs/decisions/0059-usage.md). Servers of the version before don't know them: what they delete before
-- it is counted stays uncounted.

-- What tenants have used (store/usage.py). Every figure is in a row of its user and in one without users, so that sums
-- that are not about users read few rows.
create table usage_counters (
  tenant_id text collate "C" not null,
  -- Whether the row is one user's: of sessions without a user, the empty one's.
  by_user boolean not null,
  user_id text collate "C" not null,
  day date not null,
  agent_id text collate "C" not null,
  model text collate "C" not null,
  session_count bigint not null,
  message_count bigint not null,
  run_count bigint not null,
  tool_call_count bigint not null,
  input_tokens bigint not null,
  output_tokens bigint not null,
  total_tokens bigint not null,
  reasoning_tokens bigint not null,
  cached_tokens bigint not null,
  primary key (tenant_id, by_user, user_id, day, agent_id, model)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

-- Up to which place of its feed a tenant is counted; without a row: from the beginning.
create table usage_feeds (
  tenant_id text collate "C" primary key,
  commit_xid xid8 not null,
  session_id text collate "C" not null,
  seq bigint not null
) with (autovacuum_vacuum_scale_factor = 0.05);

-- What events count that were deleted before they were counted, at their places in the feed.
create table usage_remains (
  tenant_id text collate "C" not null,
  commit_xid xid8 not null,
  session_id text collate "C" not null,
  seq bigint not null,
  day date not null,
  -- Null: a user who was erased since.
  user_id text collate "C",
  agent_id text collate "C" not null,
  model text collate "C" not null,
  session_count bigint not null,
  message_count bigint not null,
  run_count bigint not null,
  tool_call_count bigint not null,
  input_tokens bigint not null,
  output_tokens bigint not null,
  total_tokens bigint not null,
  reasoning_tokens bigint not null,
  cached_tokens bigint not null,
  primary key (tenant_id, commit_xid, session_id, seq, model)
) with (autovacuum_vacuum_scale_factor = 0.05);

-- Which server counts. One row at most.
create table usage_lease (
  one boolean primary key default true check (one),
  holder text not null,
  expire_time timestamptz not null
);
