-- What statements about the feeds of all tenants begin with; statements.py puts it behind their `with`.

-- name: ends_of_feeds
-- The last transaction of each tenant with events: one probe of the index events_feed for each.
with recursive ends as (
  (
    select e.tenant_id collate "POSIX" as tenant_id, e.commit_xid as newest from events e
    order by e.tenant_id collate "POSIX" desc, e.commit_xid desc
    limit 1
  )
  union all
  select before.tenant_id, before.newest
  from ends
  cross join lateral (
    select e.tenant_id collate "POSIX" as tenant_id, e.commit_xid as newest from events e
    where e.tenant_id collate "POSIX" < ends.tenant_id
    order by e.tenant_id collate "POSIX" desc, e.commit_xid desc
    limit 1
  ) before
)
