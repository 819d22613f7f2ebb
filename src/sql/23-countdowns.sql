-- Countdowns.

-- VOLATILE: jitter and random are drawn.
CREATE FUNCTION whisperer.countdown_preview(retry_countdown_config jsonb, retries integer DEFAULT 10)
        RETURNS TABLE (retry_count integer, seconds double precision, cumulative double precision)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'whisperer_countdown_preview';
COMMENT ON FUNCTION whisperer.countdown_preview(jsonb, integer) IS
    'What a countdown makes of 1, 2, 3, … attempts: the seconds until the next, and their sum. NULL: the default schedule.';
