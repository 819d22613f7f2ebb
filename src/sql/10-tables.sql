-- The tables. All of them are internal: users see the views of 50-views.sql.
--
-- None has a foreign key (row locks on one subscription by every delivery would burn multixacts), none has a reg... column
-- (pg_upgrade refuses those, and a restore would lose rows whose role is missing). An owner is three columns: number, name
-- and the cluster in which the number means something.
--
-- Each has a replica identity: under CREATE PUBLICATION ... FOR ALL TABLES PostgreSQL refuses UPDATE and DELETE where there is
-- none. A table without a primary key, all of which are small or have a key, has no index, and nothing at all
-- unless it is published.

CREATE SCHEMA whisperer;
COMMENT ON SCHEMA whisperer IS 'Webhooks from inside PostgreSQL';

-- Where this installation was first used. No row: never used. A row that names another cluster or database: this is a copy,
-- and nothing is sent until whisperer.resume(). The row is not made here but by the first registration, since a restore runs
-- this script before it loads the row of the original.
CREATE TABLE whisperer.home (
    system_identifier bigint NOT NULL,
    database_oid oid NOT NULL
);
ALTER TABLE whisperer.home REPLICA IDENTITY FULL;

CREATE TABLE whisperer.event_type_entry (
    event_type text PRIMARY KEY,
    owner_oid oid NOT NULL,
    owner_name text NOT NULL,
    owner_system bigint NOT NULL,
    serializer text,
    customizer text,
    description text,
    created_date timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE SEQUENCE whisperer.subscription_id_seq AS bigint;

CREATE TABLE whisperer.subscription (
    id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('whisperer.subscription_id_seq'),
    owner_oid oid NOT NULL,
    owner_name text NOT NULL,
    owner_system bigint NOT NULL,
    owner_dropped boolean NOT NULL DEFAULT false, -- set for good when the owner's role is seen to be gone
    event_type text NOT NULL,
    target_url text NOT NULL,
    callback text,
    retry_countdown_config jsonb,
    additional_headers jsonb NOT NULL DEFAULT '{}',
    config jsonb NOT NULL DEFAULT '{}',           -- without auth, which is in subscription_secret
    has_secret boolean NOT NULL DEFAULT false,    -- these two say what subscription_secret holds, for those who may
    auth_type text,                               -- not read that table
    is_active boolean NOT NULL DEFAULT true,
    inactive_reason text,
    ended_date timestamptz,                       -- set by unsubscribe
    created_date timestamptz NOT NULL DEFAULT pg_catalog.now(),
    modified_date timestamptz NOT NULL DEFAULT pg_catalog.now(),
    change_xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id() -- of the last change: workers reload by it
);
ALTER SEQUENCE whisperer.subscription_id_seq OWNED BY whisperer.subscription.id;
CREATE UNIQUE INDEX subscription_unique ON whisperer.subscription (owner_system, owner_oid, target_url, event_type)
    WHERE ended_date IS NULL;
CREATE INDEX subscription_by_event_type ON whisperer.subscription (event_type) WHERE ended_date IS NULL AND is_active;
CREATE INDEX subscription_by_change ON whisperer.subscription (change_xid);

-- Nobody is ever granted anything on this table.
CREATE TABLE whisperer.subscription_secret (
    subscription_id bigint PRIMARY KEY,
    secret_key text,
    auth jsonb
);

-- What the delivery worker learnt of a receiver; absent until something went wrong.
CREATE TABLE whisperer.subscription_state (
    subscription_id bigint PRIMARY KEY,
    consecutive_failures integer NOT NULL DEFAULT 0,
    paused_until timestamptz,
    last_status integer,
    last_error text,
    modified_date timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (fillfactor = 50);

-- What sessions learnt of receivers by synchronous deliveries, on its way to the worker, which alone writes the table above:
-- a session that held a row of that one locked would hold the worker up. Nobody updates a row of this one.
CREATE TABLE whisperer.receiver_report (
    subscription_id bigint NOT NULL,
    consecutive_failures integer NOT NULL,
    paused_until timestamptz,
    last_status integer,
    last_error text,
    reported timestamptz NOT NULL,
    gone boolean NOT NULL -- the subscription is to be deactivated
);
ALTER TABLE whisperer.receiver_report REPLICA IDENTITY FULL;

-- The payload of an event that has several deliveries, or a large one. Goes with its last delivery.
CREATE TABLE whisperer.event (
    uuid uuid PRIMARY KEY,
    payload text NOT NULL
);

-- The hot table: deliveries that are not settled.
--
-- The body sent is `body` where a customizer made one, else the envelope around `payload`, or around the payload of
-- `event_uuid`. Work is found in two ways, neither of which walks over rows already finished:
--   due IS NULL: by the transactions that became visible since the worker looked last (delivery_new);
--   due set:     by time (delivery_retry). Only the worker that owns the subscription writes due; whoever else wants an
--                attempt sets due to NULL and xid to the current transaction, and not_before if it is to wait.
CREATE TABLE whisperer.delivery (
    uuid uuid PRIMARY KEY,
    subscription_id bigint NOT NULL,
    xid xid8 NOT NULL,
    due timestamptz,
    not_before timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    event_type text NOT NULL,
    event_uuid uuid,
    payload text,
    body text,
    relation_schema text,
    relation_name text,
    response_http_status integer,
    response_content text,
    response_time interval,
    error text,
    request_datetimes timestamptz[] NOT NULL DEFAULT '{}', -- newest first
    created_date timestamptz NOT NULL DEFAULT pg_catalog.now(),
    modified_date timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX delivery_new ON whisperer.delivery (subscription_id, xid, uuid) WHERE due IS NULL;
CREATE INDEX delivery_retry ON whisperer.delivery (subscription_id, due, uuid) WHERE due IS NOT NULL;
-- What was attempted and handed to the worker anew, since: few, and for wait_until_settled() alone.
CREATE INDEX delivery_anew ON whisperer.delivery (subscription_id) WHERE due IS NULL AND attempts > 0;
CREATE INDEX delivery_by_subscription ON whisperer.delivery (subscription_id, created_date);
CREATE INDEX delivery_by_created ON whisperer.delivery (created_date);
CREATE INDEX delivery_by_modified ON whisperer.delivery (modified_date);
CREATE INDEX delivery_by_event ON whisperer.delivery (event_uuid) WHERE event_uuid IS NOT NULL;
-- Without statistics the planner takes every subscription for a rare one and always goes by the indexes above. With them it walks
-- an index by time past everything else, for a subscription that has a few per cent of the rows, all of them long ago.
ALTER TABLE whisperer.delivery ALTER COLUMN subscription_id SET STATISTICS 0;

-- Settled deliveries, one row each; a revival takes the row back out.
CREATE TABLE whisperer.history (
    uuid uuid PRIMARY KEY,
    subscription_id bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('delivered', 'failed', 'cancelled')),
    attempts integer NOT NULL,
    event_type text NOT NULL,
    event_uuid uuid,
    payload text,
    body text,
    relation_schema text,
    relation_name text,
    response_http_status integer,
    response_content text,
    response_time interval,
    error text,
    request_datetimes timestamptz[] NOT NULL,
    created_date timestamptz NOT NULL,
    modified_date timestamptz NOT NULL, -- the settlement
    reason text -- what a function of the event type's said when there was to be a body: it may tell of the data
);
CREATE INDEX history_by_subscription ON whisperer.history (subscription_id, modified_date);
CREATE INDEX history_by_subscription_created ON whisperer.history (subscription_id, created_date);
CREATE INDEX history_by_created ON whisperer.history (created_date);
CREATE INDEX history_by_modified ON whisperer.history (modified_date);
-- What failed or was cancelled is rare and looked for by name; only such rows pay for these.
CREATE INDEX history_unsent_by_created ON whisperer.history (state, created_date) WHERE state <> 'delivered';
CREATE INDEX history_unsent_by_modified ON whisperer.history (state, modified_date) WHERE state <> 'delivered';
CREATE INDEX history_unsent_by_subscription_created ON whisperer.history (subscription_id, state, created_date)
    WHERE state <> 'delivered';
CREATE INDEX history_unsent_by_subscription ON whisperer.history (subscription_id, state, modified_date)
    WHERE state <> 'delivered';
CREATE INDEX history_by_event ON whisperer.history (event_uuid) WHERE event_uuid IS NOT NULL;
ALTER TABLE whisperer.history ALTER COLUMN subscription_id SET STATISTICS 0; -- as above

-- Counters as last saved; shared memory has the current ones. At most one row.
CREATE TABLE whisperer.statistics_total (
    events bigint NOT NULL,
    deliveries bigint NOT NULL,
    attempts bigint NOT NULL,
    delivered bigint NOT NULL,
    failed bigint NOT NULL,
    cancelled bigint NOT NULL,
    callbacks bigint NOT NULL,
    callback_errors bigint NOT NULL,
    stats_reset timestamptz NOT NULL
);
ALTER TABLE whisperer.statistics_total REPLICA IDENTITY FULL;

-- A dump holds what users would miss: everything but the history, the statistics and what was learnt of receivers.
SELECT pg_catalog.pg_extension_config_dump('whisperer.home', '');
SELECT pg_catalog.pg_extension_config_dump('whisperer.event_type_entry', '');
SELECT pg_catalog.pg_extension_config_dump('whisperer.subscription', '');
SELECT pg_catalog.pg_extension_config_dump('whisperer.subscription_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('whisperer.subscription_secret', '');
SELECT pg_catalog.pg_extension_config_dump('whisperer.delivery', '');
SELECT pg_catalog.pg_extension_config_dump('whisperer.event',
    'WHERE uuid IN (SELECT event_uuid FROM whisperer.delivery WHERE event_uuid IS NOT NULL)');
