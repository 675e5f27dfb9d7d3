-- The whole current schema, for reading. Only a test executes it, which proves that the migrations produce it.
-- Times are the database's; text compares by code points.

-- Which files of migrations/ the database has.
create table schema_versions (
  version integer primary key,
  name text not null,
  apply_time timestamptz not null default clock_timestamp()
);

-- Secrets of the service as a whole, created by migration 1 and never changed.
create table service_keys (
  name text primary key,
  secret bytea not null
);

-- The hot row of each session: everything of the session that an append reads and writes. With a delete_time, the row is
-- a tombstone.
create table session_heads (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  version bigint not null,
  content_version bigint not null,
  update_time timestamptz not null,
  -- When the sweeper checks the session: never after its expire_time or lease_expire_time, possibly before them.
  expire_check_time timestamptz,
  delete_time timestamptz,
  user_id text collate "C" not null,
  core bytea not null,
  -- Never null in a stored row. A null in the row that an upsert proposes keeps the stored value, without rewriting it.
  limits bytea,
  -- commit_xid of the session's last event.
  commit_xid xid8 default pg_current_xact_id(),
  -- When the lease of the session's live run expires; null while no run is live. Heartbeats write only this column.
  lease_expire_time timestamptz,
  -- Sizes of the content at content_version (domain/sessions/content.py); null: not known.
  content_sizes bytea,
  -- The minute in which update_time lies. Lists by update time use its index; one on update_time would change with every
  -- write, and with it all other indexes of the row (docs/decisions/0042-lists-by-update-time.md).
  update_period timestamptz,
  -- Of a fork: seq of the last event that it shares with its parent; see session_segments.
  fork_seq bigint,
  -- Whether the session has, or had, forks.
  forked boolean not null default false,
  -- Places of the log that rewinds have hidden, as in the core; null for a session that was never rewound.
  rewound int8multirange,
  primary key (tenant_id, session_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

create function update_period(update_time timestamptz) returns timestamptz
language sql immutable parallel safe as $$
  select date_bin('60 s', update_time, '2000-01-01 00:00:00+00')
$$;

-- Servers of the version before write no update_period. These triggers set it for them, and run for nobody else.
create function set_update_period() returns trigger
language plpgsql as $$ begin new.update_period := update_period(new.update_time); return new; end $$;

create trigger session_heads_inserted before insert on session_heads
  for each row when (new.update_period is null) execute function set_update_period();
create trigger session_heads_updated before update of update_time on session_heads
  for each row when (
    new.update_period is null or new.update_time < new.update_period
    or new.update_time >= new.update_period + interval '60 s'
  ) execute function set_update_period();

-- Databases of the version before have session_heads_by_update_time as well, on tenant, update_time and session (see
-- migration 15).
create index session_heads_by_update_period on session_heads (tenant_id, update_period)
  where delete_time is null;
create index session_heads_to_check on session_heads (expire_check_time)
  where expire_check_time is not null;
create index session_heads_deleted on session_heads (delete_time)
  where delete_time is not null;
create index session_heads_deleted_of_user on session_heads (tenant_id, user_id, session_id)
  where delete_time is not null;

-- The columns by which sessions are listed and filtered. Appends do not write it; a tombstone has no row.
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
  -- The name in Unicode's full case folding, which name_contains searches; independent of the database's locale.
  name_folded text collate "C" not null,
  labels jsonb not null,
  -- As session_heads.limits: never null in a stored row.
  metadata jsonb,
  primary key (tenant_id, session_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

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
create index sessions_ended on sessions (tenant_id, create_time, session_id)
  where status = 4;
create index sessions_labels on sessions using gin (labels jsonb_path_ops);
create index sessions_metadata on sessions using gin (metadata jsonb_path_ops);

-- The logs. In each session seq is 1..version without a gap; a deletion leaves only the final event.
create table events (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  seq bigint not null,
  -- Orders the feed of a tenant, which is complete below pg_snapshot_xmin. It is the id of the transaction that wrote the
  -- event, or higher, so that it is never below that of the session's previous event (see write_log).
  commit_xid xid8 not null default pg_current_xact_id(),
  create_time timestamptz not null,
  -- An EventType. Negative for an event whose message was deleted since; then it has no message_id either.
  type smallint not null,
  message_id text collate "C",
  head bytea not null,
  body bytea not null,
  content bytea,
  -- The session's core after the event, where seq is a multiple of 64 and the body is not the core. Forks begin from it.
  core bytea,
  primary key (tenant_id, session_id, seq)
) with (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- Out of line and uncompressed: compression costs more than the bytes that it saves, and much of the data is compressed
-- already.
alter table events alter column body set storage external;
alter table events alter column content set storage external;

-- The key of a message in the index of message ids: 3 bytes of its session, so that the keys of a session lie together, and
-- 12 bytes of a SHA-256, so that no two messages have the same key, whatever ids callers choose. An entry of 15 bytes takes
-- 28 in the index, one of the three columns takes 84 and more.
create function message_key(tenant_id text, session_id text, message_id text) returns bytea
language sql immutable parallel safe as $$
  select substring(int4send(hashtext(tenant_id || E'\n' || session_id)) from 1 for 3) || substring(sha256(
    decode(replace(tenant_id || E'\n' || session_id || E'\n' || message_id, E'\\', E'\\\\'), 'escape')
  ) from 1 for 12)
$$;

-- Databases of the version before have events_message_id as well, on tenant, session and message_id (see migration 10).
create unique index events_message_key
  on events (message_key(tenant_id, session_id, message_id))
  where message_id is not null;

-- The planner knows only how many events a session has on average. It may therefore estimate that reading a whole log
-- costs the same as using the right index, which is disastrous for a long log. So indexes beside the primary key compare
-- tenant and session by "POSIX", another name for "C": a query with this collation can use no other index, not even the
-- primary key's. The conditions of those on the same columns do not imply each other. 20 is EVENT_TYPE_MESSAGE_APPENDED.
create index events_messages
  on events (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where type = 20;

-- The summaries. 80 is EVENT_TYPE_SUMMARY_CREATED.
create index events_summaries
  on events (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where type = 80;

-- The messages that were deleted.
create index events_deleted
  on events (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where type = -20;

-- The events that wrote a session's content, whole or as a patch.
create index events_contents
  on events (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where type < 20 and content is not null;

-- Marks by which messages are found: their labels and client times (domain/messages/marks.py). A message without them
-- has no row, and costs nothing.
create table message_marks (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  mark text collate "C" not null,
  seq bigint not null,
  primary key (tenant_id, session_id, mark, seq)
) with (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- All events of a tenant in commit order. It uses "POSIX" for the same reason.
create index events_feed
  on events (tenant_id collate "POSIX", commit_xid);

-- How the order of feeds continues in another cluster (postgres/feed_order.py). One row.
create table feed_order (
  one boolean primary key default true check (one),
  -- System identifier of the cluster for which shift was settled; null: not settled yet.
  cluster bigint,
  -- Added to a transaction's id to get its commit_xid. A multiple of 2^32, so that the lower half stays the id that xmin
  -- shows. It never decreases.
  shift bigint not null default 0 check (shift >= 0 and shift % 4294967296 = 0)
);

insert into feed_order default values;

-- Which database this is among several (docs/decisions/0035-several-databases.md). One row.
create table placement (
  one boolean primary key default true check (one),
  -- Its id in the map of databases; empty: it has none yet.
  database_id text collate "C" not null default '',
  -- Identity of the default database of the group to which it belongs; empty: of none yet.
  group_id text collate "C" not null default '',
  -- Changes with every change of tenant_homes: microseconds since 1970, and always higher than before.
  homes_version bigint not null default 0
);

insert into placement default values;

-- Where tenants live. In the default database: the map of all tenants that have another home. In every database: no
-- server writes for a tenant here whose row names another database.
create table tenant_homes (
  tenant_id text collate "C" primary key,
  database_id text collate "C" not null,
  -- homes_version of the default database since which the tenant lives there.
  version bigint not null,
  -- Whether the tenant, which lives here, is about to leave: servers then serve its calls only while they know that it
  -- has not left (rpc/moves.py).
  leaving boolean not null default false,
  -- Secret that signs the tenant's page tokens and positions: that of the database where it lived first. Null: the one of
  -- this database.
  token_key bytea
);

-- Tenants whose rows no server may change here, nor remove, because they live in another database. Work on rows of all
-- tenants leaves them out.
create function lives_elsewhere(tenant_id text) returns boolean
language sql stable parallel safe cost 10 as $$
  select exists (
    select from tenant_homes h cross join placement p
    where h.tenant_id = lives_elsewhere.tenant_id and h.database_id <> p.database_id
  )
$$;

-- Moves of tenants from database to database (postgres/moving): those under way, and the last one of each tenant. Only
-- the default database has rows.
create table tenant_moves (
  tenant_id text collate "C" primary key,
  source_id text collate "C" not null,
  target_id text collate "C" not null,
  -- The step that has begun.
  step text collate "C" not null,
  step_time timestamptz not null default clock_timestamp()
);

-- The last mark that a move has set at the source. It is replicated behind everything that was committed before it.
create table move_marks (
  tenant_id text collate "C" primary key,
  mark uuid not null
);

-- The events that each request wrote: first_seq..last_seq.
create table requests (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  request_id text collate "C" not null,
  first_seq bigint not null,
  last_seq bigint not null,
  create_time timestamptz not null,
  fingerprint bytea not null,
  -- What the log no longer has of the answer: the messages that the request deleted and returned.
  answer bytea,
  primary key (tenant_id, session_id, request_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

alter table requests alter column answer set storage external;

create index requests_by_create_time on requests (create_time);

-- The runs of each session.
create table runs (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  run_id text collate "C" not null,
  -- Order among the session's runs: seq of the event that began the run; ..., -1, 0 for runs that the session was created
  -- with.
  place bigint not null,
  status smallint not null,
  body bytea not null,
  primary key (tenant_id, session_id, run_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index runs_by_status
  on runs (tenant_id collate "POSIX", session_id collate "POSIX", status, place);

-- The tool calls of each session, without arguments and results, which are the content of the events at seq and at
-- result_seq (0: none).
create table tool_calls (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  tool_call_id text collate "C" not null,
  seq bigint not null,
  status smallint not null,
  -- Whether the call is PENDING and requires an approval.
  awaits_approval boolean not null,
  create_time timestamptz not null,
  result_seq bigint not null,
  run_id text collate "C" not null,
  -- The session's user.
  user_id text collate "C" not null,
  body bytea not null,
  -- When a call that waits for an approval expires; null: never, or it waits for none.
  expire_time timestamptz,
  -- Of a fork's calls: whether the events at seq and result_seq may be among those that it shares; see log_of.
  inherited boolean not null default false,
  primary key (tenant_id, session_id, tool_call_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index tool_calls_by_status
  on tool_calls (tenant_id collate "POSIX", session_id collate "POSIX", status, seq);
create index tool_calls_by_run
  on tool_calls (tenant_id collate "POSIX", session_id collate "POSIX", run_id, seq)
  where run_id <> '';
-- Tool calls that wait for an approval, over all sessions of a tenant or of a user.
create index tool_calls_pending
  on tool_calls (tenant_id, create_time, session_id, seq)
  where awaits_approval;
create index tool_calls_pending_by_user
  on tool_calls (tenant_id, user_id, create_time, session_id, seq)
  where awaits_approval and user_id <> '';
create index tool_calls_to_expire on tool_calls (expire_time)
  where awaits_approval and expire_time is not null;

-- Counters of each session's ended runs. Written when a run ends.
create table run_figures (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  figures bytea not null,
  primary key (tenant_id, session_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

-- Attachments. The row of a deleted attachment stays, without a blob, so that its id cannot be used again.
create table attachments (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  attachment_id text collate "C" not null,
  seq bigint not null,
  blob_id uuid,
  body bytea not null,
  primary key (tenant_id, session_id, attachment_id)
) with (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

create index attachments_by_seq
  on attachments (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where blob_id is not null;
create index attachments_by_blob on attachments (tenant_id, blob_id)
  where blob_id is not null;

-- Incomplete uploads. The epoch counts the calls that have begun or resumed the upload: only the last one may write.
create table uploads (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  attachment_id text collate "C" not null,
  blob_id uuid not null,
  epoch integer not null,
  size_bytes bigint not null,
  touch_time timestamptz not null,
  body bytea not null,
  primary key (tenant_id, session_id, attachment_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index uploads_by_touch_time on uploads (touch_time);

-- Content of attachments, stored once per tenant.
create table blobs (
  tenant_id text collate "C" not null,
  sha256 bytea not null,
  size_bytes bigint not null,
  blob_id uuid not null,
  primary key (tenant_id, sha256, size_bytes)
) with (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

create unique index blobs_by_id on blobs (tenant_id, blob_id);

-- Removed attachments whose blobs must be checked: a blob is removed once no attachment refers to it.
create table releases (
  tenant_id text collate "C" not null,
  blob_id uuid not null,
  session_id text collate "C" not null,
  attachment_id text collate "C" not null,
  primary key (tenant_id, blob_id, session_id, attachment_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

-- Pieces: runs of bytes in the storage of attachments, each written by one call. Everything that may have bytes there has
-- a row here. The pieces of one blob, in the order of `start`, are the file. A piece without a length is still being
-- written. The bytes of a piece with a drop_time are removed at that time.
create table pieces (
  tenant_id text collate "C" not null,
  piece_id uuid not null,
  blob_id uuid not null,
  start bigint not null,
  length bigint,
  drop_time timestamptz,
  primary key (tenant_id, piece_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index pieces_by_blob on pieces (tenant_id, blob_id, start);
create index pieces_to_drop on pieces (drop_time)
  where drop_time is not null;

-- Bytes of attachments, if this database stores them: 7 936 in each row, fewer in the last row of a piece.
create table blob_rows (
  tenant_id text collate "C" not null,
  piece_id uuid not null,
  number integer not null,
  data bytea not null,
  primary key (tenant_id, piece_id, number)
) with (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- In the page of its row, uncompressed: an out-of-line table would cost twice as much.
alter table blob_rows alter column data set storage plain;

-- Documents. The scope is a DocumentScope: all documents of a user (3) or a session (4) are one range of the primary key. A
-- row with a delete_time is a tombstone: it has no content, and keeps the version from which the next document of the name
-- goes on.
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
  -- Whether keys bound to a user may read it.
  user_readable boolean not null,
  labels jsonb not null,
  -- The serialised Document without its value, and its value alone. Joined they are the whole.
  body bytea not null,
  value bytea not null,
  primary key (tenant_id, scope, scope_id, key)
) with (autovacuum_vacuum_scale_factor = 0.05);

-- As events.body.
alter table documents alter column value set storage external;

create index documents_labels on documents using gin (labels jsonb_path_ops)
  where labels <> '{}';
create index documents_user_readable on documents (tenant_id, scope, scope_id, key)
  where user_readable;
create index documents_to_expire on documents (expire_time)
  where expire_time is not null;
create index documents_ended on documents (delete_time)
  where delete_time is not null;

-- What each request did that wrote a document of no session. Sessions' own requests are in `requests`.
create table document_requests (
  tenant_id text collate "C" not null,
  scope smallint not null,
  scope_id text collate "C" not null,
  request_id text collate "C" not null,
  create_time timestamptz not null,
  fingerprint bytea not null,
  -- A serialised DocumentChange.
  change bytea not null,
  primary key (tenant_id, scope, scope_id, request_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index document_requests_by_create_time on document_requests (create_time);

-- The index of searches (docs/decisions/0038-search.md): what has been read of each tenant's feed. A tenant has one index
-- that answers, and another one beside it while that is built anew.
create table search_feeds (
  feed_id integer generated always as identity primary key,
  tenant_id text collate "C" not null,
  -- 1: answers. 2: is being built, and will take the place of the one that answers. -feed_id: is being removed.
  state integer not null,
  -- The place in the feed of the last event that was read.
  commit_xid xid8 not null default '0',
  session_id text collate "C" not null default '',
  seq bigint not null default 0,
  -- How many numbers have been given.
  sessions bigint not null default 0,
  entries bigint not null default 0,
  -- Whether it had all that could be read at some time.
  complete boolean not null default false,
  create_time timestamptz not null default clock_timestamp()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

create unique index search_feeds_of_tenants on search_feeds (tenant_id, state);
create index search_feeds_dropped on search_feeds (feed_id)
  where state < 0;

-- The sessions of which events have been read, and the terms of their names, summaries and labels. Numbers follow the order
-- of creation.
create table search_sessions (
  feed_id integer not null,
  session_id text collate "C" not null,
  number bigint not null,
  -- seq of the last event that was read.
  version bigint not null,
  user_id text collate "C" not null,
  -- Of the name and the labels that `keys` are of; empty: of none.
  digest bytea not null,
  keys integer[] not null,
  primary key (feed_id, session_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

alter table search_sessions alter column keys set storage external;

create unique index search_sessions_by_number on search_sessions (feed_id, number);
-- Every search reads the whole pending list of the index, so it must be short.
create index search_sessions_keys on search_sessions using gin (keys) with (gin_pending_list_limit = 512);

-- The messages and events of tool calls that can be found. Numbers follow the order of the feed. A key is the number of a
-- term, XOR a number for each 16 384 rows of a feed: so a search reads as many of the newest rows as it needs, and finds no
-- row of another tenant.
create table search_entries (
  feed_id integer not null,
  session_number bigint not null,
  seq bigint not null,
  number bigint not null,
  create_time timestamptz not null,
  -- A Role.
  role smallint not null,
  keys integer[] not null,
  primary key (feed_id, session_number, seq)
) with (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.02,
  autovacuum_analyze_scale_factor = 0.02
);

alter table search_entries alter column keys set storage external;

create index search_entries_keys on search_entries using gin (keys) with (gin_pending_list_limit = 512);

-- The times of each 16 384 numbers. Kind 1: of sessions. 2: of entries.
create table search_buckets (
  feed_id integer not null,
  kind smallint not null,
  bucket bigint not null,
  first_time timestamptz not null,
  last_time timestamptz not null,
  primary key (feed_id, kind, bucket)
) with (autovacuum_vacuum_scale_factor = 0.05);

-- Which server keeps the index up to date. At most one row.
create table search_lease (
  one boolean primary key default true check (one),
  holder text collate "C" not null,
  expire_time timestamptz not null
);

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

-- Up to which place each tenant's feed has been looked through for sessions to summarise (docs/decisions/0051-summariser.md).
-- The row without a tenant has the place from which feeds are looked through that have no row.
create table summary_feeds (
  tenant_id text collate "C" primary key,
  -- The place in the feed of the last event that was looked at.
  commit_xid xid8 not null,
  session_id text collate "C" not null default '',
  seq bigint not null default 0
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- The sessions with messages since then.
create table summary_work (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  -- seq up to which messages have been counted.
  counted_to bigint not null,
  -- Messages that no summary covers, and their estimated tokens: a hint, which is made sure before a summary.
  messages bigint not null,
  tokens bigint not null,
  -- The event that ended the session, where a summary is due for it; else 0.
  ended_seq bigint not null,
  -- Whether a summary is due whatever was counted: a caller asked for it, or the one before could not cover all.
  asked boolean not null default false,
  -- Since when it is due, or when it may be tried again. Null: it is not due.
  due_time timestamptz,
  -- Claims since the last success, and all claims.
  attempts integer not null default 0,
  claims bigint not null default 0,
  -- How often callers have asked, and how many of the newest messages the last one wants to stay out. Null: not said.
  requests bigint not null default 0,
  keep integer,
  primary key (tenant_id, session_id)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

create index summary_work_asked on summary_work (tenant_id)
  where asked;

create index summary_work_due on summary_work (due_time)
  where due_time is not null;

-- Forks (docs/decisions/0047-forks.md). The parts of a fork's log that other logs have: all of its log up to
-- session_heads.fork_seq, ascending and without a gap. At most 100 of a fork. A log_id that begins with U+0001 is that of a
-- hidden log, which keeps what forks show of a deleted session: events with commit_xid 0, which no feed shows.
create table session_segments (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  first_seq bigint not null,
  last_seq bigint not null,
  -- The session that wrote the events, or a hidden log.
  log_id text collate "C" not null,
  primary key (tenant_id, session_id, last_seq)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index session_segments_by_log on session_segments (tenant_id, log_id, last_seq);

-- The direct parent of each fork; of a deleted parent, the id of its hidden log.
create table session_forks (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  parent_id text collate "C" not null,
  create_time timestamptz not null,
  primary key (tenant_id, session_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index session_forks_by_parent on session_forks (tenant_id, parent_id, create_time, session_id);

-- Redactions of messages that several sessions show, until each of them has its event: a command with this request id
-- (store/branches.py). The session is the one whose message a caller redacted.
create table spreads (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  request_id text collate "C" not null,
  log_id text collate "C" not null,
  seq bigint not null,
  message_id text collate "C" not null,
  reason text collate "C" not null,
  title text collate "C" not null,
  actor text collate "C" not null,
  create_time timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, request_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index spreads_by_log on spreads (tenant_id, log_id);

-- Deleted sessions of which forks show so much that it moves to the hidden log `log_id` in steps. `version`: of the
-- deletion.
create table hidings (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  log_id text collate "C" not null,
  base_version bigint not null,
  version bigint not null,
  primary key (tenant_id, session_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

-- The log that has the event at `seq` of a session.
create function log_of(tenant_id text, session_id text, seq bigint) returns text
language sql stable parallel safe as $$
  select coalesce((
    select s.log_id from session_segments s
    where s.tenant_id = log_of.tenant_id and s.session_id = log_of.session_id and s.last_seq >= log_of.seq
    order by s.last_seq
    limit 1
  ), log_of.session_id)
$$;

-- At most `most` events of a fork between `after` and `before`, from one end on. `kind`: 0, events of all types, ascending;
-- 20, messages; 80, summaries, descending. It reads four parts of the log, the next 16 and so on, until it has
-- enough.
create function fork_events(
  tenant text, session text, kind smallint, after bigint, before bigint, most bigint, descending boolean
) returns table (seq bigint, type smallint, head bytea, body bytea, content bytea)
language plpgsql stable parallel safe set plan_cache_mode = force_generic_plan as $$
declare
  logs text[];
  aboves bigint[];
  lasts bigint[];
  first integer := 1;
  count integer := 4;
  rest bigint := most;
  got bigint;
begin
  select array_agg(p.log_id order by p.place), array_agg(greatest(p.first_seq - 1, after) order by p.place),
    array_agg(p.last_seq order by p.place)
  into logs, aboves, lasts
  from (
    select q.*, case when descending then -q.first_seq else q.first_seq end as place
    from (
      select s.log_id, s.first_seq, s.last_seq from session_segments s
      where s.tenant_id = tenant and s.session_id = session
      union all
      select h.session_id, h.fork_seq + 1, 9223372036854775807 from session_heads h
      where h.tenant_id = tenant and h.session_id = session and h.fork_seq is not null
    ) q
    where q.last_seq > after and q.first_seq < before
  ) p;
  while first <= cardinality(logs) and rest > 0 loop
    if kind = 0 then
      return query
      select e.* from unnest(
        logs[first:first + count - 1], aboves[first:first + count - 1], lasts[first:first + count - 1]
      ) as part (log_id, above, last_seq)
      cross join lateral (
        select events.seq, abs(events.type), events.head, events.body, events.content from events
        where events.tenant_id = tenant and events.session_id = part.log_id
          and events.seq > part.above and events.seq <= part.last_seq and events.seq < before
        order by events.seq
        limit rest
      ) e
      order by e.seq
      limit rest;
    elsif kind = 80 then
      return query
      select e.* from unnest(
        logs[first:first + count - 1], aboves[first:first + count - 1], lasts[first:first + count - 1]
      ) as part (log_id, above, last_seq)
      cross join lateral (
        select events.seq, events.type, events.head, events.body, events.content from events
        where events.tenant_id = tenant collate "POSIX" and events.session_id = part.log_id collate "POSIX"
          and events.type = 80
          and events.seq > part.above and events.seq <= part.last_seq and events.seq < before
        order by events.seq desc
        limit rest
      ) e
      order by e.seq desc
      limit rest;
    elsif descending then
      return query
      select e.* from unnest(
        logs[first:first + count - 1], aboves[first:first + count - 1], lasts[first:first + count - 1]
      ) as part (log_id, above, last_seq)
      cross join lateral (
        select events.seq, events.type, events.head, events.body, events.content from events
        where events.tenant_id = tenant collate "POSIX" and events.session_id = part.log_id collate "POSIX"
          and events.type = 20
          and events.seq > part.above and events.seq <= part.last_seq and events.seq < before
        order by events.seq desc
        limit rest
      ) e
      order by e.seq desc
      limit rest;
    else
      return query
      select e.* from unnest(
        logs[first:first + count - 1], aboves[first:first + count - 1], lasts[first:first + count - 1]
      ) as part (log_id, above, last_seq)
      cross join lateral (
        select events.seq, events.type, events.head, events.body, events.content from events
        where events.tenant_id = tenant collate "POSIX" and events.session_id = part.log_id collate "POSIX"
          and events.type = 20
          and events.seq > part.above and events.seq <= part.last_seq and events.seq < before
        order by events.seq
        limit rest
      ) e
      order by e.seq
      limit rest;
    end if;
    get diagnostics got = row_count;
    rest := rest - got;
    first := first + count;
    count := count * 4;
  end loop;
end
$$;

-- The last erasure of each user (docs/decisions/0053-erasures.md): the record that it took place.
create table erasures (
  tenant_id text collate "C" not null,
  user_id text collate "C" not null,
  erasure_id text collate "C" not null,
  request_id text collate "C" not null,
  create_time timestamptz not null default now(),
  -- Null: it is under way.
  end_time timestamptz,
  -- Until when a server works on it.
  lease_expire_time timestamptz not null default now(),
  -- How often a server has claimed an erasure of the user: only the last claim may change it.
  claims bigint not null default 0,
  session_count bigint not null default 0,
  document_count bigint not null default 0,
  -- Of one that has ended: what it removed, as ErasureReport.json.
  report text,
  primary key (tenant_id, user_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index erasures_running on erasures (lease_expire_time)
  where end_time is null;

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

-- Encryption at rest (docs/decisions/0058-encryption.md): the wrapped data keys of tenants.
create table tenant_keys (
  tenant_id text collate "C" not null,
  -- Random.
  key_id bigint not null,
  -- Id of the key-encryption key that has wrapped it.
  kek_id text collate "C" not null,
  -- Null: it was destroyed, and with it all that it has encrypted.
  wrapped bytea,
  create_time timestamptz not null default clock_timestamp(),
  -- Whether it may encrypt. All may decrypt.
  active boolean not null,
  -- encryption_state.version since which the row is as it is.
  version bigint not null,
  primary key (tenant_id, key_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index tenant_keys_by_version on tenant_keys (version);

-- One row. Servers look at it twice a second.
create table encryption_state (
  one boolean primary key default true check (one),
  version bigint not null default 0
);

insert into encryption_state default values;

-- Legal holds (docs/decisions/0057-holds-and-retention.md). Rows stay, as the record of who held what, when and why.
create table legal_holds (
  tenant_id text collate "C" not null,
  hold_id text collate "C" not null,
  -- One of the two is empty.
  session_id text collate "C" not null,
  user_id text collate "C" not null,
  request_id text collate "C" not null,
  reason text not null,
  place_actor text collate "C" not null,
  create_time timestamptz not null default clock_timestamp(),
  -- Null: it holds.
  lift_time timestamptz,
  lift_actor text collate "C" not null default '',
  lift_reason text not null default '',
  primary key (tenant_id, hold_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index legal_holds_by_time on legal_holds (tenant_id, create_time, hold_id);
create index legal_holds_of_sessions on legal_holds (tenant_id, session_id)
  where lift_time is null and session_id <> '';
create index legal_holds_of_users on legal_holds (tenant_id, user_id)
  where lift_time is null and user_id <> '';
create unique index legal_holds_by_request on legal_holds (tenant_id, request_id)
  where request_id <> '';

-- Whether a hold keeps the session, or what the user has beside sessions where session_id is empty.
create function is_held(tenant_id text, session_id text, user_id text) returns boolean
language sql stable parallel safe cost 10 as $$
  select exists (
    select from legal_holds h
    where h.tenant_id = is_held.tenant_id and h.session_id = is_held.session_id
      and h.lift_time is null and h.session_id <> ''
  ) or exists (
    select from legal_holds h
    where h.tenant_id = is_held.tenant_id and h.user_id = is_held.user_id
      and h.lift_time is null and h.user_id <> ''
  )
$$;

-- Whether a hold keeps the document. 3 is DOCUMENT_SCOPE_USER, 4 DOCUMENT_SCOPE_SESSION.
create function is_held_document(tenant_id text, scope smallint, scope_id text) returns boolean
language sql stable parallel safe cost 20 as $$
  select case scope
    when 3 then is_held(is_held_document.tenant_id, '', is_held_document.scope_id)
    when 4 then coalesce((
      select is_held(h.tenant_id, h.session_id, h.user_id) from session_heads h
      where h.tenant_id = is_held_document.tenant_id and h.session_id = is_held_document.scope_id
    ), false)
    else false
  end
$$;

-- Whether holds keep an erasure of the user from its end: on the user, or on a session of the user.
create function holds_erasure(tenant_id text, user_id text) returns boolean
language sql stable parallel safe cost 20 as $$
  select is_held(holds_erasure.tenant_id, '', holds_erasure.user_id) or exists (
    select from legal_holds l
    join session_heads h on h.tenant_id = l.tenant_id and h.session_id = l.session_id
    where l.tenant_id = holds_erasure.tenant_id and l.lift_time is null and l.session_id <> ''
      and h.user_id = holds_erasure.user_id and h.delete_time is null
  )
$$;

-- The places of what is held. It waits for holds that are being placed, so it must be called once the heads are locked; what
-- follows the lock reads what they have committed. Locks are taken in the order of the hashes to avoid deadlocks.
create function find_held(tenant_ids text[], session_ids text[], user_ids text[]) returns setof bigint
language plpgsql volatile as $$
begin
  perform pg_advisory_xact_lock_shared(k.hash)
  from (select distinct hashtextextended(t.id, 7297) as hash from unnest(tenant_ids) as t (id) order by 1) k;
  return query
  select k.place from unnest(tenant_ids, session_ids, user_ids)
    with ordinality as k (tenant_id, session_id, user_id, place)
  where is_held(k.tenant_id, k.session_id, k.user_id);
end
$$;

-- For how long tenants keep ended sessions.
create table retention_policies (
  tenant_id text collate "C" primary key,
  -- 0: for good. Null: as the server's setting says.
  ended_retention interval,
  actor text collate "C" not null,
  update_time timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.05);

-- The sessions that erasures under way have deleted, or are about to, as their reports will count them.
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

-- Templates of sessions (store/templates.py). With a delete_time: what is left of one that was deleted.
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
