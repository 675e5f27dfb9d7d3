-- outside a transaction
-- A smaller index of message ids. Servers of the version before look for messages in the index that it replaces.

create or replace function message_key(tenant_id text, session_id text, message_id text) returns bytea
language sql immutable parallel safe as $$
  select substring(int4send(hashtext(tenant_id || E'\n' || session_id)) from 1 for 3) || substring(sha256(
    decode(replace(tenant_id || E'\n' || session_id || E'\n' || message_id, E'\\', E'\\\\'), 'escape')
  ) from 1 for 12)
$$;

drop index concurrently if exists events_message_key;
create unique index concurrently events_message_key
  on events (message_key(tenant_id, session_id, message_id))
  where message_id is not null;

-- A database without events has no server of the version before. Others keep the old index until the next version.
-- In one line, which the server runs as one transaction; see 0002_feeds.sql.
set local lock_timeout = '1s'; do $$ begin if not exists (select from events) then drop index if exists events_message_id; end if; end $$;
