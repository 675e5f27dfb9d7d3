-- outside a transaction
-- Feeds: all events of a tenant in commit order. Building the index blocks no writer, which no transaction block could
-- do; it waits for every transaction that is older. What an interrupted attempt left is not valid and must go first.

drop index concurrently if exists events_feed;

create index concurrently events_feed
  on events (tenant_id collate "POSIX", commit_xid, session_id, seq);
