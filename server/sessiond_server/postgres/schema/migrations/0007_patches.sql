-- outside a transaction
-- Contents of sessions that consist of a whole one and the patches after it.

-- In one line, which the server runs as one transaction; see 0002_feeds.sql.
set local lock_timeout = '1s'; alter table session_heads add column if not exists content_sizes bytea;

-- It has the session's events that wrote content, which are few among those of messages.
drop index concurrently if exists events_contents;
create index concurrently events_contents
  on events (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where type < 20 and content is not null;
