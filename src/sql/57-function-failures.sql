-- Calls of users' functions that went wrong.

CREATE VIEW whisperer.function_failures WITH (security_invoker = true) AS
    SELECT occurred, CASE kind WHEN 'c' THEN 'callback' ELSE 'countdown' END AS kind, subscription_id, uuid, attempt,
        function, sqlstate, whisperer.shown_failure(subscription_id, uuid, occurred) AS error
    FROM whisperer.function_failure;
COMMENT ON VIEW whisperer.function_failures IS
    'Calls of callbacks and custom countdowns that failed or took too long. The deliveries themselves are not concerned.';
COMMENT ON COLUMN whisperer.function_failures.occurred IS 'When.';
COMMENT ON COLUMN whisperer.function_failures.kind IS 'callback, or countdown (the default schedule was used instead).';
COMMENT ON COLUMN whisperer.function_failures.subscription_id IS 'Whose function it is.';
COMMENT ON COLUMN whisperer.function_failures.uuid IS 'The delivery.';
COMMENT ON COLUMN whisperer.function_failures.attempt IS 'After which attempt it was called.';
COMMENT ON COLUMN whisperer.function_failures.function IS 'The function; NULL when it was not known any more.';
COMMENT ON COLUMN whisperer.function_failures.sqlstate IS 'SQLSTATE of the error; 57014: took too long.';
COMMENT ON COLUMN whisperer.function_failures.error IS 'What went wrong; NULL to monitors, of others, since it may tell of the data.';
