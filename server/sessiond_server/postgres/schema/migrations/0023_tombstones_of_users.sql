-- outside a transaction
-- The tombstones of a user's sessions, for erasures.

drop index concurrently if exists session_heads_deleted_of_user;
create index concurrently session_heads_deleted_of_user on session_heads (tenant_id, user_id, session_id)
  where delete_time is not null;
