-- What users' functions need: custom countdowns, the calls that are to be made, and those that went wrong.

CREATE TABLE whisperer.custom_countdown (
    choice text PRIMARY KEY,
    countdown text NOT NULL,
    validator text,
    owner_oid oid NOT NULL,
    owner_name text NOT NULL,
    owner_system bigint NOT NULL,
    created_date timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- Calls of users' functions that are to be made: callbacks and custom countdowns. Written in the transaction that records the
-- attempt, deleted in the one that makes the call.
--
-- The owner is the queue a job stands in, so that owners take turns; as whom it runs is looked up when it does. Within a
-- queue jobs are found by xid, the transaction that wrote them: a reader remembers below which everything is done, and
-- does not walk over dead rows again.
CREATE TABLE whisperer.job (
    kind "char" NOT NULL,             -- c: callback, n: countdown
    owner_oid oid NOT NULL,
    xid xid8 NOT NULL,
    uuid uuid NOT NULL,               -- the delivery's
    attempt integer NOT NULL,
    subscription_id bigint NOT NULL,
    runs smallint NOT NULL DEFAULT 0, -- what it did not come to the end of weighs: 4 for a process that took it up, 1 where others ended that one
    written timestamptz NOT NULL,
    delivered boolean,                -- these are a callback's
    status integer,
    headers text,
    content text,
    error text,
    elapsed bigint                    -- microseconds
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX job_queue ON whisperer.job (kind, owner_oid, xid, uuid, attempt);
ALTER TABLE whisperer.job REPLICA IDENTITY USING INDEX job_queue;

-- Calls that went wrong. Old ones go with whisperer.retention.
CREATE TABLE whisperer.function_failure (
    subscription_id bigint NOT NULL,
    uuid uuid NOT NULL,
    attempt integer NOT NULL,
    kind "char" NOT NULL,
    function text,
    sqlstate text NOT NULL,
    error text NOT NULL,
    occurred timestamptz NOT NULL
);
ALTER TABLE whisperer.function_failure REPLICA IDENTITY FULL;
CREATE INDEX function_failure_by_subscription ON whisperer.function_failure (subscription_id, occurred);
CREATE INDEX function_failure_by_uuid ON whisperer.function_failure (uuid);
CREATE INDEX function_failure_by_time ON whisperer.function_failure (occurred);

SELECT pg_catalog.pg_extension_config_dump('whisperer.custom_countdown', '');
