-- Who must not be sent anywhere: SHA-256 of the normal forms that platforms get.
create table penstock.suppressed (
    digest      bytea primary key check (octet_length(digest) = 32),
    at          timestamptz not null default clock_timestamp(),
    erasure_id  text                            -- null: put there by hand
);

-- The record of what was asked to be erased; what came of it is in the jobs erase-<erasure_id>.
create table penstock.erasure (
    erasure_id  text primary key,
    at          timestamptz not null default clock_timestamp(),
    people      integer not null                -- rows of erasure_person
);

create table penstock.erasure_person (
    erasure_id  text not null references penstock.erasure on delete cascade,
    place       integer not null,               -- from 1
    digests     jsonb not null,                 -- {"google:email": hex, ...}
    primary key (erasure_id, place)
);
