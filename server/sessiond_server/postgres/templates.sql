-- Templates of sessions (store/templates.py).

-- name: get_template  index: templates_pkey
select body from templates where tenant_id = $1 and template_id = $2 and delete_time is null

-- name: list_templates  index: templates_pkey
-- At most $3 templates and $4 bytes behind the id $2. `found` counts up to $3 + 1.
select sized.template_id, sized.body, sized.found
from (
  select page.*, row_number() over upwards as place, sum(octet_length(page.body)) over upwards as bytes,
    count(*) over () as found
  from (
    select template_id, body from templates
    where tenant_id = $1 and template_id > $2 and delete_time is null
    order by tenant_id, template_id
    limit $3::bigint + 1
  ) page
  window upwards as (order by page.template_id rows unbounded preceding)
) sized
where sized.place <= $3 and (sized.place = 1 or sized.bytes <= $4::bigint)
order by sized.template_id

-- name: lock_templates
-- 7298 is the class of these locks.
select pg_advisory_xact_lock(hashtextextended($1::text, 7298))

-- name: find_template  index: templates_pkey
-- The row of a template, if there is one; how many the tenant has, up to 1 000; and the time.
select t.version, t.create_time, t.delete_time, t.body, t.request_id, t.fingerprint, (
    select count(*) from (
      select from templates live where live.tenant_id = $1 and live.delete_time is null limit 1000
    ) counted
  ) as count, clock_timestamp() as now
from (select 1) one left join templates t on t.tenant_id = $1 and t.template_id = $2

-- name: write_template
insert into templates as t (tenant_id, template_id, version, create_time, delete_time, body, request_id, fingerprint)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (tenant_id, template_id) do update
set version = excluded.version, create_time = excluded.create_time, delete_time = excluded.delete_time,
  body = excluded.body, request_id = excluded.request_id, fingerprint = excluded.fingerprint

-- name: purge_templates  index: templates_deleted
delete from templates where ctid = any (array(
  select ctid from templates
  where delete_time < now() - $1::interval and not lives_elsewhere(tenant_id)
  order by delete_time
  limit $2
  for update skip locked
))
