-- How feeds go on in another cluster. Servers of the version before know none of it, and need not while shift is 0.

create table feed_order (
  one boolean primary key default true check (one),
  -- The system identifier of the cluster that shift has been settled for; null: of none yet.
  cluster bigint,
  -- Added to a transaction's id to make its commit_xid. A multiple of 2^32, so that the lower half stays the id that
  -- xmin has. It never shrinks.
  shift bigint not null default 0 check (shift >= 0 and shift % 4294967296 = 0)
);

insert into feed_order default values;
