-- Raising events.

CREATE FUNCTION whisperer.deliver_event(instance anyelement, event_type text, _async boolean DEFAULT true,
        event_uuid uuid DEFAULT NULL, config_filter jsonb DEFAULT NULL) RETURNS uuid[]
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_deliver_event';
COMMENT ON FUNCTION whisperer.deliver_event(anyelement, text, boolean, uuid, jsonb) IS
    'Raises an event: every active subscription to the event type gets a delivery of this row or JSON object once the transaction commits. Returns the deliveries'' uuids.';

CREATE FUNCTION whisperer.deliver_event(instance text, event_type text, _async boolean DEFAULT true,
        event_uuid uuid DEFAULT NULL, config_filter jsonb DEFAULT NULL) RETURNS uuid[]
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_deliver_event_text';
COMMENT ON FUNCTION whisperer.deliver_event(text, text, boolean, uuid, jsonb) IS
    'Raises an event whose instance is the JSON text of an object; otherwise as the form for rows.';

CREATE FUNCTION whisperer.deliver_event_trigger() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_deliver_event_trigger';
COMMENT ON FUNCTION whisperer.deliver_event_trigger() IS
    'AFTER trigger, for each row or for each statement with a transition table: every row written raises the event type named by the first argument; a second one is a config_filter.';
