-- What an audience holds by a job's last successful run, as digests: so that the next run of the job
-- sends only the difference.
create table penstock.mirror (
    mirror_id   bigint generated always as identity primary key,
    target      text not null unique,           -- digest of the job's name, its lane and the audience
    holder_job  text,                           -- the job whose run is being compared
    upto        bigint not null default 0,      -- its run removes entries below; 0: none any more
    next_ord    bigint not null default 0,
    entries     bigint not null default 0,
    updated_at  timestamptz not null default clock_timestamp()
);

-- One row for each identifier. No foreign key: it would be checked row by row, 100 million times.
create table penstock.mirror_entry (
    mirror_id   bigint not null,
    digest      bytea not null,                 -- 16 bytes
    ord         bigint not null,                -- never used again
    -- 1: the entry numbered after it is another identifier of the same row; 2: the one before it;
    -- 4: in doubt, for a run that did not end well added it or was to take it out
    flags       smallint not null,
    ids         bytea not null,                 -- what a removal sends: SHA-256 digests
    primary key (mirror_id, digest) include (ord, flags)
);
create unique index mirror_entry_ord on penstock.mirror_entry (mirror_id, ord);
-- Digests and the arrays of them do not compress: the server should not try.
alter table penstock.mirror_entry alter column ids set storage external;

-- What a batch of a running job added, tentative until its lane ends well. In pieces of many, since
-- a foreign key costs a check for each row: with it, a stream that starts over forgets them.
create table penstock.mirror_added (
    job_id      text not null,
    lane        text not null,
    seq         integer not null,
    piece       integer not null,
    size        integer not null,
    digests     bytea[] not null,
    ids         bytea[] not null,
    doubted     boolean not null default false, -- the platform took back some of the batch later
    primary key (job_id, lane, seq, piece),
    foreign key (job_id, lane, seq) references penstock.delivery on delete cascade
);
alter table penstock.mirror_added
    alter column digests set storage external,
    alter column ids set storage external;

-- Which entries a batch found again, by blocks of ordinals; at least one row for each batch.
create table penstock.mirror_seen (
    job_id      text not null,
    lane        text not null,
    block       integer not null,
    seq         integer not null,
    ords        bytea not null,
    changed     bytea[] not null,               -- members of whom one identifier is new, another not
    primary key (job_id, lane, block, seq),
    foreign key (job_id, lane, seq) references penstock.delivery on delete cascade
);
create index mirror_seen_delivery on penstock.mirror_seen (job_id, lane, seq);
alter table penstock.mirror_seen
    alter column ords set storage external,
    alter column changed set storage external;
