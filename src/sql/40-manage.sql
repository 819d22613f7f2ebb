-- What is done to deliveries after they were raised, and the look-up that the views need.

CREATE FUNCTION whisperer.retry(event_uuid uuid, force boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_retry';
COMMENT ON FUNCTION whisperer.retry(uuid, boolean) IS
    'Makes a delivery due now. One that failed or was cancelled is revived with at least one more attempt; one already delivered only with force.';

CREATE FUNCTION whisperer.retry_failed(subscription_id bigint DEFAULT NULL, since timestamptz DEFAULT NULL,
        until timestamptz DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_retry_failed';
COMMENT ON FUNCTION whisperer.retry_failed(bigint, timestamptz, timestamptz) IS
    'Revives the failed deliveries of active subscriptions that the caller manages: those of one subscription, or those that failed in [since, until). Returns how many.';

CREATE FUNCTION whisperer.cancel(event_uuid uuid) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_cancel';
COMMENT ON FUNCTION whisperer.cancel(uuid) IS
    'Cancels a pending delivery. A request already under way is not taken back: if it succeeds, the delivery is delivered after all.';

CREATE FUNCTION whisperer.wait_until_settled(timeout interval DEFAULT '10 s') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_wait_until_settled';
COMMENT ON FUNCTION whisperer.wait_until_settled(interval) IS
    'Waits until every delivery committed when it was called, and managed by the caller, is delivered, failed or cancelled. False when the time is up.';

CREATE FUNCTION whisperer.prune(older_than interval DEFAULT '12 weeks', max_rows bigint DEFAULT 10000) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_prune';
COMMENT ON FUNCTION whisperer.prune(interval, bigint) IS
    'Removes the oldest of the deliveries settled longer ago than that, with the payloads that nothing else refers to. Returns how many deliveries.';

-- Not to_regclass(): that one fails for a schema on which the reader of a view has no USAGE.
CREATE FUNCTION whisperer.relation_of(schema text, name text) RETURNS regclass
    LANGUAGE c STABLE PARALLEL SAFE COST 20 AS 'MODULE_PATHNAME', 'whisperer_relation_of';
COMMENT ON FUNCTION whisperer.relation_of(text, text) IS
    'Internal: the relation of that name in that schema, or NULL if there is none now';
