-- Moves of tenants (moving/__init__.py says the steps). schema.sql explains the tables.

-- name: read  index: tenant_moves_pkey
select tenant_id, source_id, target_id, step, extract(epoch from clock_timestamp() - step_time)::float8 as seconds
from tenant_moves where tenant_id = $1

-- name: listed
select tenant_id, source_id, target_id, step, extract(epoch from clock_timestamp() - step_time)::float8 as seconds
from tenant_moves where step <> 'done'
order by tenant_id

-- name: lock_move
-- For as long as the connection lasts. 7296 is the class of these locks.
select pg_try_advisory_lock(hashtextextended($1::text, 7296))

-- name: begin
insert into tenant_moves (tenant_id, source_id, target_id, step) values ($1, $2, $3, $4)
on conflict (tenant_id) do update
set source_id = excluded.source_id, target_id = excluded.target_id, step = excluded.step, step_time = excluded.step_time
where tenant_moves.step = 'done'

-- name: advance  index: tenant_moves_pkey
update tenant_moves set step = $3, step_time = clock_timestamp() where tenant_id = $1 and step = $2
returning true

-- name: forget  index: tenant_moves_pkey
delete from tenant_moves where tenant_id = $1

-- name: mark
insert into move_marks (tenant_id, mark) values ($1, $2)
on conflict (tenant_id) do update set mark = excluded.mark

-- name: has_mark  index: move_marks_pkey
select exists (select from move_marks where tenant_id = $1 and mark = $2)

-- name: tables
-- The tables whose rows go with a tenant.
select c.relname::text as name
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relkind in ('r', 'p') and a.attname = 'tenant_id' and not a.attisdropped and pg_table_is_visible(c.oid)
  and c.relnamespace = current_schema()::regnamespace and c.relname <> all ($1::text[])
order by c.relname

-- name: newest  index: events_feed
-- The last place of the tenant's feed; null without events.
select e.commit_xid::text::bigint from events e
where e.tenant_id = $1 collate "POSIX"
order by e.commit_xid desc
limit 1

-- name: next
-- The place of the next transaction that begins to write.
select pg_snapshot_xmax(pg_current_snapshot())::text::bigint + shift from feed_order

-- name: raise
-- Run it while no transaction writes, so that none is filed below a place that was read.
update feed_order set shift = shift + $1 where shift = $2
returning shift

-- name: tables_state
-- How many tables the subscription copies, how many are copied, and what has been copied of those that are under way.
select count(*) as all, count(*) filter (where r.srsubstate in ('s', 'r')) as ready,
  coalesce(sum(p.tuples_processed), 0)::bigint as rows, coalesce(sum(p.bytes_processed), 0)::bigint as bytes,
  coalesce(string_agg(p.relid::regclass::text, ', ' order by p.relid), '') as names
from pg_subscription s
join pg_subscription_rel r on r.srsubid = s.oid
left join pg_stat_progress_copy p on p.relid = r.srrelid and p.datid = s.subdbid and p.command = 'COPY FROM'
where s.subname = $1 and s.subdbid = (select oid from pg_database where datname = current_database())

-- name: lag
-- Bytes of the source's log that the target has not confirmed; null: the slot is not there. `lost`: the source has removed
-- log that the slot needs.
select pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint as bytes, wal_status = 'lost' as lost
from pg_replication_slots where slot_name = $1

-- name: primary_key
-- The columns of a table's primary key, in order.
select a.attname::text as name
from pg_index i cross join unnest(i.indkey) with ordinality as k (number, place)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
where i.indrelid = $1::text::regclass and i.indisprimary
order by k.place

-- name: table_slots
-- How the names of the slots begin and end with which the subscription copies single tables.
select format('pg_%s_sync_', s.oid) as prefix, '_' || c.system_identifier as suffix
from pg_subscription s cross join pg_control_system() c
where s.subname = $1 and s.subdbid = (select oid from pg_database where datname = current_database())

-- name: end_senders
-- Ends the connections that use the slots of drop_slots.
select pg_terminate_backend(active_pid) from pg_replication_slots
where database = current_database() and active_pid is not null
  and (slot_name = $1 or $2 <> '' and starts_with(slot_name, $2) and right(slot_name, length($3)) = $3)

-- name: drop_slots
select pg_drop_replication_slot(slot_name) from pg_replication_slots
where database = current_database()
  and (slot_name = $1 or $2 <> '' and starts_with(slot_name, $2) and right(slot_name, length($3)) = $3)
