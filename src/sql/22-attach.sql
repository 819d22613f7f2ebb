-- Triggers that raise events.

CREATE FUNCTION whisperer.attach(relation regclass, event_type text, operation text DEFAULT 'INSERT',
        condition text DEFAULT NULL, columns name[] DEFAULT NULL, config_filter jsonb DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_attach';
COMMENT ON FUNCTION whisperer.attach(regclass, text, text, text, name[], jsonb) IS
    'Makes a trigger by which each row inserted, updated or deleted raises the event type, in place of the one that it made before. Returns the trigger''s name.';

CREATE FUNCTION whisperer.detach(relation regclass, event_type text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_detach';
COMMENT ON FUNCTION whisperer.detach(regclass, text) IS
    'Removes the trigger that attach() made for the table and event type.';
