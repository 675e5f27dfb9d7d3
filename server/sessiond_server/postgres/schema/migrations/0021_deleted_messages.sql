-- outside a transaction
-- Deleted messages are found by an index of their events: what a fork at an earlier place must not count. See
-- 0002_feeds.sql about the form.

drop index concurrently if exists events_deleted;
create index concurrently events_deleted
  on events (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where type = -20;
