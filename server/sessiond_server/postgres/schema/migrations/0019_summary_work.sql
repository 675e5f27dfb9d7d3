-- Which sessions are due for a summary that the service makes (docs/decisions/0051-summariser.md). Filled from the feed by
-- servers of this version with a summariser; servers of the version before don't know it.

create table summary_feeds (
  tenant_id text collate "C" primary key,
  commit_xid xid8 not null,
  session_id text collate "C" not null default '',
  seq bigint not null default 0
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

create table summary_work (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  counted_to bigint not null,
  messages bigint not null,
  tokens bigint not null,
  ended_seq bigint not null,
  asked boolean not null default false,
  due_time timestamptz,
  attempts integer not null default 0,
  claims bigint not null default 0,
  primary key (tenant_id, session_id)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

create index summary_work_due on summary_work (due_time)
  where due_time is not null;
