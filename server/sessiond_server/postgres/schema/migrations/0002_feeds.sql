-- outside a transaction
-- Feeds: all events of a tenant in commit order.

-- Takes a moment once it has its lock, for which it waits no longer than others may be held up behind it.
-- In one line, which the server runs as one transaction: nothing set is left to who uses the connection next.
set local lock_timeout = '1s'; alter table session_heads add column if not exists commit_xid xid8;
set local lock_timeout = '1s'; alter table session_heads alter column commit_xid set default pg_current_xact_id();

-- Building it blocks no writer, which no transaction block could do; it waits for every transaction that is older. What
-- an attempt that was cut off has left is not valid, and goes first.
drop index concurrently if exists events_feed;
create index concurrently events_feed
  on events (tenant_id collate "POSIX", commit_xid);
