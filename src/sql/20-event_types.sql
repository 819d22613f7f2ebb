-- Event types: functions and view; and the functions about the installation as a whole.

CREATE FUNCTION whisperer.register_event_type(event_type text, serializer text DEFAULT NULL, customizer text DEFAULT NULL,
        description text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_register_event_type';
COMMENT ON FUNCTION whisperer.register_event_type(text, text, text, text) IS
    'Registers an event type, whose owner the caller becomes. serializer makes the payload of a row, customizer the body of a delivery; both run as the owner.';

CREATE FUNCTION whisperer.update_event_type(event_type text, changes jsonb) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_update_event_type';
COMMENT ON FUNCTION whisperer.update_event_type(text, jsonb) IS
    'Changes serializer, customizer or description of an event type: the keys given; null removes.';

CREATE FUNCTION whisperer.unregister_event_type(event_type text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_unregister_event_type';
COMMENT ON FUNCTION whisperer.unregister_event_type(text) IS
    'Removes an event type to which no active subscription and no trigger refers.';

CREATE FUNCTION whisperer.owner_name(owner_oid oid, owner_name text, owner_system bigint) RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'whisperer_owner_name';
COMMENT ON FUNCTION whisperer.owner_name(oid, text, bigint) IS
    'Internal: what the owner''s role is called now, or was called when it was last seen';

CREATE FUNCTION whisperer.owner_is_gone(owner_oid oid, owner_name text, owner_system bigint) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'whisperer_owner_is_gone';
COMMENT ON FUNCTION whisperer.owner_is_gone(oid, text, bigint) IS 'Internal: whether the owner''s role exists no more';

CREATE VIEW whisperer.event_types WITH (security_invoker = true) AS
    SELECT event_type, whisperer.owner_name(owner_oid, owner_name, owner_system) AS owner, serializer, customizer,
        description, created_date
    FROM whisperer.event_type_entry;
COMMENT ON VIEW whisperer.event_types IS 'Event types that are registered.';
COMMENT ON COLUMN whisperer.event_types.event_type IS 'Name of the event type.';
COMMENT ON COLUMN whisperer.event_types.owner IS 'Role that registered it, as which serializer and customizer run.';
COMMENT ON COLUMN whisperer.event_types.serializer IS 'Function that makes the payload of a row; NULL: to_jsonb(row).';
COMMENT ON COLUMN whisperer.event_types.customizer IS 'Function that makes the body sent out of the usual body; NULL: none.';
COMMENT ON COLUMN whisperer.event_types.description IS 'For people.';
COMMENT ON COLUMN whisperer.event_types.created_date IS 'When it was registered.';

CREATE FUNCTION whisperer.resume() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_resume';
COMMENT ON FUNCTION whisperer.resume() IS
    'Lets a copy (restored, cloned or moved to another cluster) send: it sends nothing before. Owners are found by name.';
