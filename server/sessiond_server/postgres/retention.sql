-- Legal holds: store/retention.py has their contract.

-- name: find_held
-- The places of what legal holds keep; see the function.
select find_held($1::text[], $2::text[], $3::text[]) as place

-- name: find_held_messages  index: session_heads_pkey session_segments_by_log
-- The places of messages that a session which is held shows: the one whose log has it, or a fork.
select k.place from unnest((select $1::text[]), (select $2::text[]), (select $3::bigint[]))
  with ordinality as k (tenant_id, log_id, seq, place)
where exists (
  select from (
    select k.log_id as session_id
    union all
    select s.session_id from session_segments s
    where s.tenant_id = k.tenant_id and s.log_id = k.log_id and s.last_seq >= k.seq and s.first_seq <= k.seq
  ) shown
  cross join lateral (
    select * from session_heads
    where session_heads.tenant_id = k.tenant_id and session_heads.session_id = shown.session_id
    limit 1
  ) h
  where h.delete_time is null and is_held(h.tenant_id, h.session_id, h.user_id)
)

-- name: lock_holds
-- Waits for writes of the tenant that remove something, and they for it.
select pg_advisory_xact_lock(hashtextextended($1, 7297))

-- name: lock_holds_shared
select pg_advisory_xact_lock_shared(hashtextextended($1, 7297))

-- name: is_held
select is_held($1, $2, $3)

-- name: find_hold_of_request  index: legal_holds_by_request
select hold_id, session_id, user_id, reason, place_actor, create_time, lift_time, lift_actor, lift_reason
from legal_holds
where tenant_id = $1 and request_id = $2 and request_id <> ''

-- name: place_hold
insert into legal_holds (tenant_id, hold_id, session_id, user_id, request_id, reason, place_actor)
select $1, $2, $3, $4, $5, $6, $7
where $3 = '' or exists (
  select from session_heads h where h.tenant_id = $1 and h.session_id = $3 and h.delete_time is null
)
returning hold_id, session_id, user_id, reason, place_actor, create_time, lift_time, lift_actor, lift_reason

-- name: lift_hold  index: legal_holds_pkey
update legal_holds
set lift_actor = case when lift_time is null then $3 else lift_actor end,
  lift_reason = case when lift_time is null then $4 else lift_reason end,
  lift_time = coalesce(lift_time, clock_timestamp())
where tenant_id = $1 and hold_id = $2
returning hold_id, session_id, user_id, reason, place_actor, create_time, lift_time, lift_actor, lift_reason

-- name: list_holds  index: legal_holds_by_time
select hold_id, session_id, user_id, reason, place_actor, create_time, lift_time, lift_actor, lift_reason
from legal_holds
where tenant_id = $1 and ($2 = '' or session_id = $2) and ($3 = '' or user_id = $3)
  and ($4 or lift_time is null) and (create_time, hold_id) < ($5::timestamptz, $6)
order by create_time desc, hold_id desc
limit $7

-- name: set_policy  index: retention_policies_pkey
insert into retention_policies (tenant_id, ended_retention, actor, update_time)
values ($1, $2::bigint * interval '1 microsecond', $3, clock_timestamp())
on conflict (tenant_id) do update
set ended_retention = excluded.ended_retention, actor = excluded.actor, update_time = excluded.update_time

-- name: get_policy  index: retention_policies_pkey
select (extract(epoch from ended_retention) * 1000000)::bigint as ended_retention_us, actor, update_time
from retention_policies
where tenant_id = $1

-- name: retained_tenants
-- Tenants behind $2 whose ended sessions are not kept for good, and for how many microseconds they are. $1: of those without
-- a policy of their own; where they keep sessions for good, only those with a policy are looked at. Others are found one
-- after the other in the index sessions_ended.
with recursive others as (
  (
    select s.tenant_id from sessions s
    where $1::bigint > 0 and s.status = 4 and s.tenant_id > $2
    order by s.tenant_id
    limit 1
  )
  union all
  select (
    select s.tenant_id from sessions s
    where s.status = 4 and s.tenant_id > o.tenant_id
    order by s.tenant_id
    limit 1
  )
  from others o
  where o.tenant_id is not null
)
select k.tenant_id, k.kept_us from (
  select t.tenant_id, coalesce((extract(epoch from p.ended_retention) * 1000000)::bigint, $1::bigint) as kept_us
  from (
    select o.tenant_id from others o
    where o.tenant_id is not null
    union
    select r.tenant_id from retention_policies r
    where r.tenant_id > $2
  ) t
  left join retention_policies p on p.tenant_id = t.tenant_id
) k
where k.kept_us > 0 and not lives_elsewhere(k.tenant_id)
order by k.tenant_id
limit $3

-- name: ended_sessions  index: sessions_ended session_heads_pkey
-- The next ended sessions in the order of creation, behind the key, and whether they are due.
select k.session_id, k.create_time, h.version,
  h.update_time <= now() - $2::bigint * interval '1 microsecond' and not is_held($1, k.session_id, k.user_id) as due
from (
  select s.session_id, s.create_time, s.user_id from sessions s
  where s.tenant_id = $1 and s.status = 4 and s.create_time <= now() - $2::bigint * interval '1 microsecond'
    and (s.create_time, s.session_id) > ($3::timestamptz, $4)
  order by s.create_time, s.session_id
  limit $5
) k
cross join lateral (
  select session_heads.version, session_heads.update_time from session_heads
  where session_heads.tenant_id = $1 and session_heads.session_id = k.session_id
  limit 1
) h
order by k.create_time, k.session_id
