-- Forks (docs/decisions/0047-forks.md): sessions that share the beginning of their log with another one.

set local lock_timeout = '1s';
alter table session_heads add column fork_seq bigint, add column forked boolean not null default false;
alter table events add column core bytea;
alter table tool_calls add column inherited boolean not null default false;

create table session_segments (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  first_seq bigint not null,
  last_seq bigint not null,
  log_id text collate "C" not null,
  primary key (tenant_id, session_id, last_seq)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index session_segments_by_log on session_segments (tenant_id, log_id, last_seq);

create table session_forks (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  parent_id text collate "C" not null,
  create_time timestamptz not null,
  primary key (tenant_id, session_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index session_forks_by_parent on session_forks (tenant_id, parent_id, create_time, session_id);

create table spreads (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  request_id text collate "C" not null,
  log_id text collate "C" not null,
  seq bigint not null,
  message_id text collate "C" not null,
  reason text collate "C" not null,
  title text collate "C" not null,
  actor text collate "C" not null,
  create_time timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, request_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index spreads_by_log on spreads (tenant_id, log_id);

create table hidings (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  log_id text collate "C" not null,
  base_version bigint not null,
  version bigint not null,
  primary key (tenant_id, session_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create function log_of(tenant_id text, session_id text, seq bigint) returns text
language sql stable parallel safe as $$
  select coalesce((
    select s.log_id from session_segments s
    where s.tenant_id = log_of.tenant_id and s.session_id = log_of.session_id and s.last_seq >= log_of.seq
    order by s.last_seq
    limit 1
  ), log_of.session_id)
$$;

create function fork_events(
  tenant text, session text, kind smallint, after bigint, before bigint, most bigint, descending boolean
) returns table (seq bigint, type smallint, head bytea, body bytea, content bytea)
language plpgsql stable parallel safe set plan_cache_mode = force_generic_plan as $$
declare
  logs text[];
  aboves bigint[];
  lasts bigint[];
  first integer := 1;
  count integer := 4;
  rest bigint := most;
  got bigint;
begin
  select array_agg(p.log_id order by p.place), array_agg(greatest(p.first_seq - 1, after) order by p.place),
    array_agg(p.last_seq order by p.place)
  into logs, aboves, lasts
  from (
    select q.*, case when descending then -q.first_seq else q.first_seq end as place
    from (
      select s.log_id, s.first_seq, s.last_seq from session_segments s
      where s.tenant_id = tenant and s.session_id = session
      union all
      select h.session_id, h.fork_seq + 1, 9223372036854775807 from session_heads h
      where h.tenant_id = tenant and h.session_id = session and h.fork_seq is not null
    ) q
    where q.last_seq > after and q.first_seq < before
  ) p;
  while first <= cardinality(logs) and rest > 0 loop
    if kind = 0 then
      return query
      select e.* from unnest(
        logs[first:first + count - 1], aboves[first:first + count - 1], lasts[first:first + count - 1]
      ) as part (log_id, above, last_seq)
      cross join lateral (
        select events.seq, abs(events.type), events.head, events.body, events.content from events
        where events.tenant_id = tenant and events.session_id = part.log_id
          and events.seq > part.above and events.seq <= part.last_seq and events.seq < before
        order by events.seq
        limit rest
      ) e
      order by e.seq
      limit rest;
    elsif kind = 80 then
      return query
      select e.* from unnest(
        logs[first:first + count - 1], aboves[first:first + count - 1], lasts[first:first + count - 1]
      ) as part (log_id, above, last_seq)
      cross join lateral (
        select events.seq, events.type, events.head, events.body, events.content from events
        where events.tenant_id = tenant collate "POSIX" and events.session_id = part.log_id collate "POSIX"
          and events.type = 80
          and events.seq > part.above and events.seq <= part.last_seq and events.seq < before
        order by events.seq desc
        limit rest
      ) e
      order by e.seq desc
      limit rest;
    elsif descending then
      return query
      select e.* from unnest(
        logs[first:first + count - 1], aboves[first:first + count - 1], lasts[first:first + count - 1]
      ) as part (log_id, above, last_seq)
      cross join lateral (
        select events.seq, events.type, events.head, events.body, events.content from events
        where events.tenant_id = tenant collate "POSIX" and events.session_id = part.log_id collate "POSIX"
          and events.type = 20
          and events.seq > part.above and events.seq <= part.last_seq and events.seq < before
        order by events.seq desc
        limit rest
      ) e
      order by e.seq desc
      limit rest;
    else
      return query
      select e.* from unnest(
        logs[first:first + count - 1], aboves[first:first + count - 1], lasts[first:first + count - 1]
      ) as part (log_id, above, last_seq)
      cross join lateral (
        select events.seq, events.type, events.head, events.body, events.content from events
        where events.tenant_id = tenant collate "POSIX" and events.session_id = part.log_id collate "POSIX"
          and events.type = 20
          and events.seq > part.above and events.seq <= part.last_seq and events.seq < before
        order by events.seq
        limit rest
      ) e
      order by e.seq
      limit rest;
    end if;
    get diagnostics got = row_count;
    rest := rest - got;
    first := first + count;
    count := count * 4;
  end loop;
end
$$;
