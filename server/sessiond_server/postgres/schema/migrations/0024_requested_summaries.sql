-- Summaries that callers ask for (docs/decisions/0051-summariser.md). Servers of the version before keep the columns as
-- they are: a request that comes while such a server makes a summary of the session may be taken for done with it.

alter table summary_work add column requests bigint not null default 0, add column keep integer;

create index summary_work_asked on summary_work (tenant_id)
  where asked;
