-- outside a transaction
-- What the log no longer has of a request's answer. Servers of the version before write none and need none.

-- Each takes a moment once it has its lock, for which it waits no longer than others may be held up behind it.
set local lock_timeout = '1s'; alter table requests add column if not exists answer bytea;
set local lock_timeout = '1s'; alter table requests alter column answer set storage external;
