-- Workers find what is new by the transaction that wrote it. A restore writes old numbers, and into the database that was dumped
-- while its workers are at work: these triggers give a row the number of the transaction that loads it, and tell the workers.
-- Deliveries that are raised are written without SQL and call none of them. ALWAYS: under session_replication_role =
-- replica too.

CREATE FUNCTION whisperer.renumber_row() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_renumber_row';
COMMENT ON FUNCTION whisperer.renumber_row() IS
    'Internal: gives a row that a restore loads the number of the present transaction';

CREATE TRIGGER renumber_row BEFORE INSERT ON whisperer.subscription
    FOR EACH ROW EXECUTE FUNCTION whisperer.renumber_row();
ALTER TABLE whisperer.subscription ENABLE ALWAYS TRIGGER renumber_row;

CREATE TRIGGER renumber_row BEFORE INSERT ON whisperer.delivery
    FOR EACH ROW EXECUTE FUNCTION whisperer.renumber_row();
ALTER TABLE whisperer.delivery ENABLE ALWAYS TRIGGER renumber_row;

CREATE FUNCTION whisperer.secrets_loaded() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_secrets_loaded';
COMMENT ON FUNCTION whisperer.secrets_loaded() IS
    'Internal: tells the workers that secrets have come for which subscriptions wait';

CREATE TRIGGER secrets_loaded AFTER INSERT ON whisperer.subscription_secret
    FOR EACH STATEMENT EXECUTE FUNCTION whisperer.secrets_loaded();
ALTER TABLE whisperer.subscription_secret ENABLE ALWAYS TRIGGER secrets_loaded;
