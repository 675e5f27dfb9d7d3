-- outside a transaction
-- Summaries are found by an index of their events. See 0002_feeds.sql about the form.

drop index concurrently if exists events_summaries;
create index concurrently events_summaries
  on events (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where type = 80;
