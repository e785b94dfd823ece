create schema if not exists penstock;

create table penstock.job (
    job_id      text primary key,
    name        text not null,
    spec        jsonb not null,
    digest      text not null,
    state       text not null default 'submitted'
                check (state in ('submitted', 'running', 'succeeded', 'partial', 'failed', 'cancelled')),
    error       text,
    warnings    jsonb not null default '[]',
    retry_of    text,
    cancelling  boolean not null default false,
    created_at  timestamptz not null default clock_timestamp(),
    opened_at   timestamptz,
    ended_at    timestamptz,
    -- when the sweep next looks at it: sends `open` again, or finalizes where the chord is gone
    look_at     timestamptz not null default clock_timestamp(),

    -- the stream: what extract has read and where it goes on
    stream      text not null default 'waiting'
                check (stream in ('waiting', 'reading', 'parked', 'ended')),
    epoch       integer not null default 0,     -- fences an older extract off
    generation  integer not null default 1,     -- counts starts from the first row
    lease_until timestamptz,
    wake_at     timestamptz not null default clock_timestamp(),
    called_at   timestamptz,                    -- when the sweep last sent for a reader
    crashes     integer not null default 0,     -- since the last recorded batch
    tries       integer not null default 0,     -- likewise: times the source did not answer
    position    text,                           -- key of the last recorded row
    next_seq    integer not null default 0,
    extracted   bigint not null default 0,
    columns     jsonb,
    total       bigint,
    total_exact boolean not null default false
);
create index job_open on penstock.job (look_at) where state in ('submitted', 'running');

create table penstock.lane (
    job_id      text not null references penstock.job on delete cascade,
    lane        text not null,
    idx         integer not null,
    kind        text not null,
    connection  text not null,
    view        text not null,
    serial      boolean not null,
    state       text not null default 'open'
                check (state in ('open', 'succeeded', 'rejected_some', 'failed', 'cancelled', 'skipped')),
    error       text,                           -- set while open: the lane is on its way to fail
    recorded    integer not null default 0,     -- batches handed to the lane
    settled     integer not null default 0,
    released    integer not null default 0,     -- batches the window no longer counts
    rows        bigint not null default 0,
    accepted    bigint not null default 0,
    rejected    bigint not null default 0,
    skipped     bigint not null default 0,
    failed      bigint not null default 0,
    reasons     jsonb not null default '{}',
    unusable    jsonb not null default '{}',
    not_before  timestamptz,                    -- the platform asked to wait
    memo        jsonb not null default '{}',    -- ids the platform gave: a job, a session, an upload
    abandoned   jsonb not null default '[]',    -- memos of earlier generations, to be cleaned up
    parts       integer not null default 0,     -- file lanes: parts cut so far
    cut         integer not null default 0,     -- file lanes: first batch of the next part
    artifacts   jsonb not null default '[]',
    details     jsonb not null default '{}',
    close_at    timestamptz,                    -- when the closing task is due (again)
    close_lease timestamptz,
    close_holder text,
    close_tries integer not null default 0,
    ended_at    timestamptz,
    primary key (job_id, lane)
);

create table penstock.batch (
    job_id      text not null references penstock.job on delete cascade,
    seq         integer not null,
    generation  integer not null,
    epoch       integer not null,               -- names the payload
    rows        integer not null,
    after_key   text,                           -- the source range it covers: (after, upto]
    upto_key    text,
    bytes       bigint not null,
    refills     integer not null default 0,     -- since it was last read again
    refill_at   timestamptz,                    -- a refill under way is trusted until then
    primary key (job_id, seq)
);

create table penstock.delivery (
    job_id      text not null,
    lane        text not null,
    seq         integer not null,
    state       text not null default 'pending' check (state in ('pending', 'ready', 'settled')),
    holder      text,
    lease_until timestamptz,
    due_at      timestamptz,                    -- when the sweep publishes it again
    published   integer not null default 1,     -- 0: snoozed, and not to be sent before due_at
    deferred    boolean not null default false, -- serial lanes: waits for the one being sent
    tries       integer not null default 0,
    crashes     integer not null default 0,
    progress    jsonb,                          -- what of it is sent already
    size        integer,                        -- file lanes: bytes of its piece
    part        integer,
    put_off     boolean not null default false, -- its part could not be stored yet
    primary key (job_id, lane, seq),
    foreign key (job_id, lane) references penstock.lane on delete cascade
);
create index delivery_due on penstock.delivery (due_at) where state <> 'settled';

-- Sum two objects of counts key by key.
create function penstock.add_counts(a jsonb, b jsonb) returns jsonb
language sql immutable parallel safe as $$
    select coalesce(jsonb_object_agg(key, total), '{}')
    from (select key, sum(value::bigint) as total
          from (select * from jsonb_each_text(a) union all select * from jsonb_each_text(b)) as both_
          group by key) as summed
$$;
