-- The index of searches (docs/decisions/0038-search.md). It is filled from the feed by a server of this version; servers of
-- the version before don't know it, and what they redact or delete leaves it when its event is read from the feed.

create table search_feeds (
  feed_id integer generated always as identity primary key,
  tenant_id text collate "C" not null,
  state integer not null,
  commit_xid xid8 not null default '0',
  session_id text collate "C" not null default '',
  seq bigint not null default 0,
  sessions bigint not null default 0,
  entries bigint not null default 0,
  complete boolean not null default false,
  create_time timestamptz not null default clock_timestamp()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

create unique index search_feeds_of_tenants on search_feeds (tenant_id, state);
create index search_feeds_dropped on search_feeds (feed_id)
  where state < 0;

create table search_sessions (
  feed_id integer not null,
  session_id text collate "C" not null,
  number bigint not null,
  version bigint not null,
  user_id text collate "C" not null,
  digest bytea not null,
  keys integer[] not null,
  primary key (feed_id, session_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

alter table search_sessions alter column keys set storage external;

create unique index search_sessions_by_number on search_sessions (feed_id, number);
create index search_sessions_keys on search_sessions using gin (keys) with (gin_pending_list_limit = 512);

create table search_entries (
  feed_id integer not null,
  session_number bigint not null,
  seq bigint not null,
  number bigint not null,
  create_time timestamptz not null,
  role smallint not null,
  keys integer[] not null,
  primary key (feed_id, session_number, seq)
) with (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.02,
  autovacuum_analyze_scale_factor = 0.02
);

alter table search_entries alter column keys set storage external;

create index search_entries_keys on search_entries using gin (keys) with (gin_pending_list_limit = 512);

create table search_buckets (
  feed_id integer not null,
  kind smallint not null,
  bucket bigint not null,
  first_time timestamptz not null,
  last_time timestamptz not null,
  primary key (feed_id, kind, bucket)
) with (autovacuum_vacuum_scale_factor = 0.05);

create table search_lease (
  one boolean primary key default true check (one),
  holder text collate "C" not null,
  expire_time timestamptz not null
);
