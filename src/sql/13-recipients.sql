-- Sessions keep who gets which event. They hear through these triggers that it has changed, whoever changed it and how: COPY
-- at a restore, a superuser's own UPDATE. ALWAYS: under session_replication_role = replica too.

CREATE FUNCTION whisperer.recipients_changed() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_recipients_changed';
COMMENT ON FUNCTION whisperer.recipients_changed() IS
    'Internal: tells all sessions that subscriptions or event types are to be looked at again';

CREATE TRIGGER recipients_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON whisperer.subscription
    FOR EACH STATEMENT EXECUTE FUNCTION whisperer.recipients_changed();
ALTER TABLE whisperer.subscription ENABLE ALWAYS TRIGGER recipients_changed;

CREATE TRIGGER recipients_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON whisperer.event_type_entry
    FOR EACH STATEMENT EXECUTE FUNCTION whisperer.recipients_changed();
ALTER TABLE whisperer.event_type_entry ENABLE ALWAYS TRIGGER recipients_changed;
