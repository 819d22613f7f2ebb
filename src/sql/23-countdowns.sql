-- Countdowns.

-- VOLATILE: jitter and random are drawn.
CREATE FUNCTION whisperer.countdown_preview(retry_countdown_config jsonb, retries integer DEFAULT 10)
        RETURNS TABLE (retry_count integer, seconds double precision, cumulative double precision)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_countdown_preview';
COMMENT ON FUNCTION whisperer.countdown_preview(jsonb, integer) IS
    'What a countdown makes of 1, 2, 3, ... attempts: the seconds until the next, and their sum. NULL: the default schedule.';

CREATE FUNCTION whisperer.register_countdown(choice text, countdown text, validator text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_register_countdown';
COMMENT ON FUNCTION whisperer.register_countdown(text, text, text) IS
    'Makes a function of yours, (retry_count integer, kwargs jsonb) returning seconds, a choice of retry_countdown_config; validator (kwargs jsonb) returns the kwargs accepted, or raises. Both run as the subscription''s owner.';

CREATE FUNCTION whisperer.unregister_countdown(choice text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_unregister_countdown';
COMMENT ON FUNCTION whisperer.unregister_countdown(text) IS
    'Removes a custom countdown that no subscription uses.';

CREATE VIEW whisperer.countdowns WITH (security_invoker = true) AS
    SELECT choice, whisperer.owner_name(owner_oid, owner_name, owner_system) AS owner, countdown, validator, created_date
    FROM whisperer.custom_countdown;
COMMENT ON VIEW whisperer.countdowns IS 'Custom countdowns that are registered.';
COMMENT ON COLUMN whisperer.countdowns.choice IS 'Name for retry_countdown_config.';
COMMENT ON COLUMN whisperer.countdowns.owner IS 'Role that registered it.';
COMMENT ON COLUMN whisperer.countdowns.countdown IS 'Function that returns the seconds until the next attempt.';
COMMENT ON COLUMN whisperer.countdowns.validator IS 'Function that checks kwargs when somebody subscribes; NULL: none.';
COMMENT ON COLUMN whisperer.countdowns.created_date IS 'When it was registered.';
