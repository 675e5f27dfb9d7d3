-- Which database this is among several, and where tenants live that have another home than the default database. Servers
-- of the version before know none of it: give no tenant a home while one of them runs.

create table placement (
  one boolean primary key default true check (one),
  database_id text collate "C" not null default '',
  group_id text collate "C" not null default '',
  homes_version bigint not null default 0
);

insert into placement default values;

create table tenant_homes (
  tenant_id text collate "C" primary key,
  database_id text collate "C" not null,
  version bigint not null
);
