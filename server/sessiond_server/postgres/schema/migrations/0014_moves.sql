-- Moving tenants between databases (docs/decisions/0040-moving-a-tenant.md). Servers of the version before do not leave the
-- rows of a tenant alone that lives elsewhere: move no tenant while one of them runs.

alter table tenant_homes add column leaving boolean not null default false;
alter table tenant_homes add column token_key bytea;

create table tenant_moves (
  tenant_id text collate "C" primary key,
  source_id text collate "C" not null,
  target_id text collate "C" not null,
  step text collate "C" not null,
  step_time timestamptz not null default clock_timestamp()
);

create table move_marks (
  tenant_id text collate "C" primary key,
  mark uuid not null
);

create function lives_elsewhere(tenant_id text) returns boolean
language sql stable parallel safe cost 10 as $$
  select exists (
    select from tenant_homes h cross join placement p
    where h.tenant_id = lives_elsewhere.tenant_id and h.database_id <> p.database_id
  )
$$;
