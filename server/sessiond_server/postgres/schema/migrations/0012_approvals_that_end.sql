-- outside a transaction
-- When tool calls that wait for an approval expire. See 0002_feeds.sql about the form.

set local lock_timeout = '1s'; alter table tool_calls add column if not exists expire_time timestamptz;

drop index concurrently if exists tool_calls_to_expire;
create index concurrently tool_calls_to_expire on tool_calls (expire_time)
  where awaits_approval and expire_time is not null;
