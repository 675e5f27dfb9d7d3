-- outside a transaction
-- Sessions are listed by update time through an index that changes when a session's update time enters another
-- minute, not with every write. Servers of the version before list by the index that it replaces.

set local lock_timeout = '1s'; alter table session_heads add column if not exists update_period timestamptz;

create or replace function update_period(update_time timestamptz) returns timestamptz
language sql immutable parallel safe as $$
  select date_bin('60 s', update_time, '2000-01-01 00:00:00+00')
$$;

-- Servers of the version before write no update_period. These triggers set it for them, and run for nobody else.
create or replace function set_update_period() returns trigger
language plpgsql as $$ begin new.update_period := update_period(new.update_time); return new; end $$;
set local lock_timeout = '1s'; drop trigger if exists session_heads_inserted on session_heads; create trigger session_heads_inserted before insert on session_heads for each row when (new.update_period is null) execute function set_update_period();
set local lock_timeout = '1s'; drop trigger if exists session_heads_updated on session_heads; create trigger session_heads_updated before update of update_time on session_heads for each row when (new.update_period is null or new.update_time < new.update_period or new.update_time >= new.update_period + interval '60 s') execute function set_update_period();

-- A thousand rows at a time, in the order in which servers lock them.
do $$ declare last record; begin
  select '' as tenant_id, '' as session_id into last;
  loop
    with page as materialized (
      select tenant_id, session_id from session_heads
      where (tenant_id, session_id) > (last.tenant_id, last.session_id)
      order by tenant_id, session_id
      limit 1000
      for update
    ), filled as (
      update session_heads h set update_period = update_period(h.update_time)
      from page
      where h.tenant_id = page.tenant_id and h.session_id = page.session_id and h.update_period is null
    )
    select tenant_id, session_id into last from page order by tenant_id desc, session_id desc limit 1;
    exit when not found;
    commit;
  end loop; end $$;

drop index concurrently if exists session_heads_by_update_period;
create index concurrently session_heads_by_update_period on session_heads (tenant_id, update_period)
  where delete_time is null;

-- A database without sessions has no server of the version before. Others keep the old index until the next version.
set local lock_timeout = '1s'; do $$ begin if not exists (select from session_heads) then drop index if exists session_heads_by_update_time; end if; end $$;
