-- Diagnoses of a database that makes no progress. The server answers them from memory.
-- A role without pg_read_all_stats sees only the process id and database of other roles' sessions.

-- name: blockers
-- Holders of the locks that sessions of this role wait for. A process id of 0 means a prepared transaction.
select w.pid as waiting, l.locktype, l.mode, l.relation::regclass::text as relation,
  b.pid, coalesce(b.application_name, '') as application, coalesce(b.usename, '') as role, coalesce(b.state, '') as state,
  coalesce(extract(epoch from clock_timestamp() - b.xact_start), 0)::float8 as seconds
from pg_stat_activity w
cross join lateral unnest(pg_blocking_pids(w.pid)) as blocking (pid)
left join pg_stat_activity b on b.pid = blocking.pid
left join lateral (
  select locktype, mode, relation from pg_locks where pg_locks.pid = w.pid and not granted limit 1
) l on true
where w.datname = current_database() and w.usename = current_user and w.wait_event_type = 'Lock'
limit 8

-- name: feed_holder
-- The oldest transaction that has written and not ended, in any database of the cluster. No feed goes beyond it.
-- No row: no such transaction.
select pg_snapshot_xmin(s.now)::text::bigint as xid, coalesce(a.pid, 0) as pid,
  coalesce(nullif(a.application_name, ''), case when p.gid is not null then 'prepared transaction ' || p.gid end, '')
    as application,
  coalesce(a.usename, p.owner, '') as role, coalesce(a.datname, p.database, '') as database,
  coalesce(a.state, '') as state,
  coalesce(extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared)), 0)::float8 as seconds
from (select pg_current_snapshot() as now) s
left join pg_locks l on l.locktype = 'transactionid' and l.granted and l.mode = 'ExclusiveLock'
  and l.transactionid = pg_snapshot_xmin(s.now)::xid
left join pg_stat_activity a on a.pid = l.pid
left join pg_prepared_xacts p on p.transaction = pg_snapshot_xmin(s.now)::xid
where pg_snapshot_xmin(s.now) < pg_snapshot_xmax(s.now)
limit 1

-- name: table_holder
-- Who has, or waits for, a lock that keeps writers out of one of the tables $1. Those who have it come first.
select l.relation::regclass::text as relation, l.mode, l.granted, coalesce(l.pid, 0) as pid,
  coalesce(a.application_name, '') as application, coalesce(a.usename, '') as role, coalesce(a.state, '') as state,
  coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::float8 as seconds
from pg_locks l
join pg_class c on c.oid = l.relation
left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'relation' and l.database = (select oid from pg_database where datname = current_database())
  and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  and l.pid is distinct from pg_backend_pid()
  and c.relname = any ($1::text[]) and c.relkind in ('r', 'p') and pg_table_is_visible(c.oid)
order by l.granted desc, a.xact_start
limit 1

-- name: growth
-- The tables $1: their bytes, rows, and when vacuum last went through them; a row for each table. No row of them is read.
-- `transaction_age`: of the database of the cluster whose oldest transaction id is oldest.
select c.relname::text as name, pg_table_size(c.oid)::float8 as table_bytes,
  pg_indexes_size(c.oid)::float8 as index_bytes, coalesce(s.n_live_tup, 0) as live_rows,
  coalesce(s.n_dead_tup, 0) as dead_rows,
  extract(epoch from clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum))::float8 as vacuum_seconds,
  (select max(age(datfrozenxid)) from pg_database) as transaction_age,
  current_setting('autovacuum_freeze_max_age')::integer as freeze_age
from pg_class c
left join pg_stat_user_tables s on s.relid = c.oid
where c.relname = any ($1::text[]) and c.relkind in ('r', 'p') and pg_table_is_visible(c.oid)
order by c.relname

-- name: standbys
-- What reads the log of this server as it is written, by state. Empty texts and nulls: the role may not see them.
select coalesce(r.state, '') as state, coalesce(r.sync_state, '') as sync_state, count(*) as standbys,
  max(pg_wal_lsn_diff(here.lsn, r.replay_lsn))::float8 as bytes, max(extract(epoch from r.replay_lag))::float8 as seconds
from (
  select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as lsn
) here
cross join pg_stat_replication r
group by 1, 2
order by 1, 2

-- name: slots
-- Bytes of log that replication slots, in use or not, keep the server from removing. A row for each of the two.
select s.active, count(*) as slots, coalesce(max(pg_wal_lsn_diff(here.lsn, s.restart_lsn)), 0)::float8 as bytes
from (
  select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as lsn
) here
cross join pg_replication_slots s
group by 1
order by 1
