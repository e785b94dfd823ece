-- Rows that a lane did not take whole, by their own keys. They go with their delivery, so that a
-- stream that starts over forgets them.
create table penstock.rejection (
    job_id      text not null,
    lane        text not null,
    seq         integer not null,
    n           integer not null,
    row         text not null,
    field       text not null,
    reason      text not null,
    primary key (job_id, lane, seq, n),
    foreign key (job_id, lane, seq) references penstock.delivery on delete cascade
);

-- Requests that a platform works on by itself: their verdicts are asked for when the lane closes.
create table penstock.request (
    job_id      text not null,
    lane        text not null,
    seq         integer not null,
    request     text not null,
    rows        integer not null,
    removes     boolean not null default false, -- a mirror's removals; they bring no rows
    checked     boolean not null default false,
    primary key (job_id, lane, request),
    foreign key (job_id, lane, seq) references penstock.delivery on delete cascade
);
-- For the cascade: a stream that starts over deletes deliveries by the thousand.
create index request_delivery on penstock.request (job_id, lane, seq);
create index request_open on penstock.request (job_id, lane, seq) where not checked;

alter table penstock.lane
    add column reported integer not null default 0,     -- how many rejections are kept
    add column report_more bigint not null default 0,   -- how many are not, for there are too many
    add column removed bigint not null default 0,       -- mirror: members taken out of the audience
    add column waiting text,                            -- why a batch of it was put off last
    add column figures jsonb not null default '{}';     -- what was done for it: requests
