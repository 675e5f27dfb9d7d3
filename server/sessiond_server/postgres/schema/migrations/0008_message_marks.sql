-- Marks by which messages are found. Servers of the version before write no labels and client times, and need no marks.

create table message_marks (
  tenant_id text collate "C" not null,
  session_id text collate "C" not null,
  mark text collate "C" not null,
  seq bigint not null,
  primary key (tenant_id, session_id, mark, seq)
);
