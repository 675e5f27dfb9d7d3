-- outside a transaction
-- Ended sessions in the order of their creation, for retention. 4 is SESSION_STATUS_ENDED.

drop index concurrently if exists sessions_ended;
create index concurrently sessions_ended on sessions (tenant_id, create_time, session_id)
  where status = 4;
