-- Subscriptions: functions and view.

CREATE FUNCTION whisperer.subscribe(event_type text, target_url text, secret_key text DEFAULT NULL,
        callback text DEFAULT NULL, retry_countdown_config jsonb DEFAULT NULL, additional_headers jsonb DEFAULT '{}',
        config jsonb DEFAULT '{}') RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_subscribe';
COMMENT ON FUNCTION whisperer.subscribe(text, text, text, text, jsonb, jsonb, jsonb) IS
    'Asks for one event type at one URL, as the caller. Returns the subscription''s id.';

CREATE FUNCTION whisperer.subscribe(subscription jsonb) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_subscribe_jsonb';
COMMENT ON FUNCTION whisperer.subscribe(jsonb) IS
    'Asks for one event type at one URL, with the arguments as the keys of one object. Returns the subscription''s id.';

CREATE FUNCTION whisperer.update_subscription(id bigint, changes jsonb) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_update_subscription';
COMMENT ON FUNCTION whisperer.update_subscription(bigint, jsonb) IS
    'Changes the keys given, for the next attempt of what is pending too. is_active pauses and resumes; null removes secret_key, callback, retry_countdown_config and config.auth.';

CREATE FUNCTION whisperer.unsubscribe(id bigint) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_unsubscribe';
COMMENT ON FUNCTION whisperer.unsubscribe(bigint) IS
    'Ends a subscription and cancels what is pending for it; its record and history stay.';

CREATE VIEW whisperer.subscriptions WITH (security_invoker = true) AS
    SELECT id, whisperer.owner_name(owner_oid, owner_name, owner_system) AS owner, event_type,
        whisperer.shown_url(id) AS target_url,
        is_active AND NOT held AS is_active,
        CASE WHEN is_active AND held THEN 'held: the owner''s role is gone; events are kept for whisperer.reassign()'
            ELSE inactive_reason END AS inactive_reason,
        has_secret, auth_type, callback, retry_countdown_config,
        whisperer.shown_headers(id) AS additional_headers, config, created_date, modified_date
    FROM whisperer.subscription, LATERAL (SELECT
        owner_dropped OR whisperer.owner_is_gone(owner_oid, owner_name, owner_system) AS held) owner_state;
COMMENT ON VIEW whisperer.subscriptions IS 'Subscriptions, those paused or ended included; without secrets.';
COMMENT ON COLUMN whisperer.subscriptions.id IS 'Number that subscribe() returned.';
COMMENT ON COLUMN whisperer.subscriptions.owner IS 'Role that subscribed, as which the callback runs.';
COMMENT ON COLUMN whisperer.subscriptions.event_type IS 'Event type asked for.';
COMMENT ON COLUMN whisperer.subscriptions.target_url IS 'Where its events are sent to; to monitors, of others, only scheme and host.';
COMMENT ON COLUMN whisperer.subscriptions.is_active IS 'Whether events are raised and sent for it. False while it is held: then they are raised and kept.';
COMMENT ON COLUMN whisperer.subscriptions.inactive_reason IS 'Why not.';
COMMENT ON COLUMN whisperer.subscriptions.has_secret IS 'Whether its requests are signed.';
COMMENT ON COLUMN whisperer.subscriptions.auth_type IS 'How its requests authenticate: basic, bearer, token; NULL: not at all.';
COMMENT ON COLUMN whisperer.subscriptions.callback IS 'Function called after each attempt.';
COMMENT ON COLUMN whisperer.subscriptions.retry_countdown_config IS 'How long to wait before a retry; NULL: the default schedule.';
COMMENT ON COLUMN whisperer.subscriptions.additional_headers IS 'Headers sent with its requests beside whisperer''s own; to monitors, of others, without values.';
COMMENT ON COLUMN whisperer.subscriptions.config IS 'Its config, without auth.';
COMMENT ON COLUMN whisperer.subscriptions.created_date IS 'When it was made.';
COMMENT ON COLUMN whisperer.subscriptions.modified_date IS 'When it was last changed.';
