-- Attachments, their uploads, and where their bytes are. New tables only: the previous version runs beside it.

create table attachments (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  attachment_id text collate "C" not null,
  seq bigint not null,
  blob_id uuid,
  body bytea not null,
  primary key (tenant_id, session_id, attachment_id)
);

create index attachments_by_seq
  on attachments (tenant_id collate "POSIX", session_id collate "POSIX", seq)
  where blob_id is not null;
create index attachments_by_blob on attachments (tenant_id, blob_id)
  where blob_id is not null;

create table uploads (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  attachment_id text collate "C" not null,
  blob_id uuid not null,
  epoch integer not null,
  size_bytes bigint not null,
  touch_time timestamptz not null,
  body bytea not null,
  primary key (tenant_id, session_id, attachment_id)
);

create index uploads_by_touch_time on uploads (touch_time);

create table blobs (
  tenant_id text collate "C" not null,
  sha256 bytea not null,
  size_bytes bigint not null,
  blob_id uuid not null,
  primary key (tenant_id, sha256, size_bytes)
);

create unique index blobs_by_id on blobs (tenant_id, blob_id);

create table releases (
  tenant_id text collate "C" not null,
  blob_id uuid not null,
  session_id text collate "C" not null,
  attachment_id text collate "C" not null,
  primary key (tenant_id, blob_id, session_id, attachment_id)
);

create table pieces (
  tenant_id text collate "C" not null,
  piece_id uuid not null,
  blob_id uuid not null,
  start bigint not null,
  length bigint,
  drop_time timestamptz,
  primary key (tenant_id, piece_id)
);

create index pieces_by_blob on pieces (tenant_id, blob_id, start);
create index pieces_to_drop on pieces (drop_time)
  where drop_time is not null;

create table blob_rows (
  tenant_id text collate "C" not null,
  piece_id uuid not null,
  number integer not null,
  data bytea not null,
  primary key (tenant_id, piece_id, number)
);

alter table blob_rows alter column data set storage plain;
