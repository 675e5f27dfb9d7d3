-- Encryption at rest (docs/decisions/0058-encryption.md): the wrapped data keys of tenants.

create table tenant_keys (
  tenant_id text collate "C" not null,
  -- Random.
  key_id bigint not null,
  -- Id of the key-encryption key that has wrapped it.
  kek_id text collate "C" not null,
  -- Null: it was destroyed, and with it all that it has encrypted.
  wrapped bytea,
  create_time timestamptz not null default clock_timestamp(),
  -- Whether it may encrypt. All may decrypt.
  active boolean not null,
  -- encryption_state.version since which the row is as it is.
  version bigint not null,
  primary key (tenant_id, key_id)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index tenant_keys_by_version on tenant_keys (version);

-- One row. Servers look at it twice a second.
create table encryption_state (
  one boolean primary key default true check (one),
  version bigint not null default 0
);

insert into encryption_state default values;
