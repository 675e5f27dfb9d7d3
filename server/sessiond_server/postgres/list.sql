-- Fragments from which filters.py composes lists and counts of sessions: a page or a count, its order, and one condition
-- per field of the filter that is set, named like the field. `:name` is a parameter; `{name}` is replaced by fixed text. h
-- is joined only if a condition or the order reads it. documents.py composes lists of documents in the same way.

-- name: page_of_cores
with page as materialized (
  select {id} as session_id, {place} as place
  from {source}
  where {conditions}
  order by {order}
  limit :limit + 1
)
select page.session_id, page.place, h.version, h.core, null::bytea[] as chain, count(*) over () as found
from page
cross join lateral (
  select * from session_heads
  where session_heads.tenant_id = :tenant_id and session_heads.session_id = page.session_id
  limit 1
) h
order by page.place {direction}, page.session_id {direction}

-- name: page_of_sessions
with page as materialized (
  select {id} as session_id, {place} as place
  from {source}
  where {conditions}
  order by {order}
  limit :limit + 1
), sized as (
  select page.session_id, page.place, h.version, h.core, h.tenant_id, h.content_version, e.base,
    row_number() over onwards as number,
    sum(octet_length(h.core) + coalesce(e.bytes, 0)) over onwards as bytes,
    count(*) over () as found
  from page
  cross join lateral (
    select * from session_heads
    where session_heads.tenant_id = :tenant_id and session_heads.session_id = page.session_id
    limit 1
  ) h
  left join lateral (
    select min(e.seq) as base, sum(octet_length(e.content))::integer as bytes from events e
    where e.tenant_id = :tenant_id collate "POSIX" and e.session_id = page.session_id collate "POSIX"
      and e.type < 20 and e.content is not null and e.seq <= h.content_version
      and e.seq >= (
        select w.seq from events w
        where w.tenant_id = :tenant_id collate "POSIX" and w.session_id = page.session_id collate "POSIX"
          and w.type < 20 and w.content is not null and w.seq <= h.content_version
          and substring(w.content from 1 for 1) <> '\x07'
        order by w.seq desc
        limit 1
      )
  ) e on h.content_version > 0
  window onwards as (order by page.place {direction}, page.session_id {direction} rows unbounded preceding)
)
select session_id, place, version, core, found, array(
  select e.content from events e
  where e.tenant_id = sized.tenant_id collate "POSIX" and e.session_id = sized.session_id collate "POSIX"
    and e.type < 20 and e.content is not null and e.seq >= sized.base and e.seq <= sized.content_version
  order by e.seq
) as chain
from sized
where number <= :limit and (number = 1 or bytes <= :page_bytes)
order by place {direction}, session_id {direction}

-- name: count
select count(*) from {source} where {conditions}

-- name: source_sessions
sessions s

-- name: source_sessions_and_heads
sessions s join session_heads h on h.tenant_id = s.tenant_id and h.session_id = s.session_id and h.delete_time is null

-- name: source_heads
session_heads h

-- name: tenant_id
s.tenant_id = :tenant_id

-- name: tenant_id_of_heads
h.tenant_id = :tenant_id and h.delete_time is null

-- name: owner
s.user_id = :owner and s.user_id <> ''

-- name: type
s.type = :type

-- name: component_id
(s.agent_id = :component_id or s.team_id = :component_id or s.workflow_id = :component_id)

-- name: agent_id
s.agent_id = :agent_id and s.agent_id <> ''

-- name: team_id
s.team_id = :team_id and s.team_id <> ''

-- name: workflow_id
s.workflow_id = :workflow_id and s.workflow_id <> ''

-- name: user_id
s.user_id = :user_id and s.user_id <> ''

-- name: statuses
s.status = any (:statuses::smallint[])

-- name: name_contains
strpos(s.name_folded, :name_contains) > 0

-- name: labels
s.labels @> :labels::jsonb

-- name: metadata
s.metadata @> :metadata::jsonb

-- name: create_time_from
s.create_time >= :create_time_from

-- name: create_time_until
s.create_time < :create_time_until

-- name: update_time_from
h.update_time >= :update_time_from and h.update_period >= update_period(:update_time_from)

-- name: update_time_until
h.update_time < :update_time_until and h.update_period <= update_period(:update_time_until)

-- name: after_ascending
({keys}) > ({after})

-- name: after_descending
({keys}) < ({after})

-- name: page_of_documents
with page as materialized (
  select d.key, d.body, case when :values then d.value else '' end as value
  from documents d
  where {conditions}
  order by d.key
  limit :limit + 1
), sized as (
  select *, row_number() over onwards as number, count(*) over () as found,
    sum(octet_length(body) + octet_length(value)) over onwards as bytes
  from page
  window onwards as (order by key rows unbounded preceding)
)
select key, array[body, value] as document, found from sized
where number <= :limit and (number = 1 or bytes <= :page_bytes)
order by key

-- name: documents_of_owner
d.tenant_id = :tenant_id and d.scope = :scope and d.scope_id = :scope_id and d.key > :after and d.key >= :key_prefix
    and d.delete_time is null and (d.expire_time is null or d.expire_time > now())

-- name: documents_before
d.key < :before

-- name: documents_user_readable
d.user_readable

-- name: documents_labels
d.labels @> :labels::jsonb and d.labels <> '{}'
