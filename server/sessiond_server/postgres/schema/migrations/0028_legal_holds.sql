-- Legal holds (docs/decisions/0057-holds-and-retention.md). Servers of the version before don't know them, and refuse nothing.

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
