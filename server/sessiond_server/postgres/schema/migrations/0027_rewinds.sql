-- Rewinds (docs/decisions/0055-rewinds.md): what they have hidden of a session. Servers of the version before show it.

set local lock_timeout = '1s';
alter table session_heads add column rewound int8multirange;
