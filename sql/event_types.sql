-- Event types: registering, changing, unregistering, and what stands in the way of that.
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS whisperer CASCADE;
CREATE EXTENSION whisperer;
RESET client_min_messages;

SELECT count(*) FROM whisperer.home;
SELECT whisperer.register_event_type('package-created');
SELECT whisperer.register_event_type('package-updated', description => 'A package was changed');
SELECT whisperer.register_event_type(event_type => repeat('é', 124), serializer => NULL, customizer => NULL);
SELECT left(event_type, 20) AS event_type, owner = current_user AS mine, serializer, customizer, description,
    created_date <= now() AS dated FROM whisperer.event_types ORDER BY 1;
-- The first registration noted where this is.
SELECT system_identifier = (SELECT system_identifier FROM pg_control_system()) AS here,
    database_oid = (SELECT oid FROM pg_database WHERE datname = current_database()) AS this FROM whisperer.home;

-- Twice is one too many.
SELECT whisperer.register_event_type('package-created');

-- Only the keys given are changed; null removes.
SELECT whisperer.update_event_type('package-created', '{"description": "A package was made"}');
SELECT whisperer.update_event_type('package-updated', '{"description": null, "serializer": null}');
SELECT whisperer.update_event_type('package-created', '{}');
SELECT left(event_type, 20) AS event_type, description FROM whisperer.event_types ORDER BY 1;

-- In the way of unregistering: an active subscription, a trigger; not a paused or ended subscription.
SELECT whisperer.subscribe('package-created', 'https://example.com/hook');
SELECT whisperer.unregister_event_type('package-created');
SELECT whisperer.update_subscription(1, '{"is_active": false}');
CREATE TABLE package (id int);
SELECT whisperer.attach('package', 'package-created');
SELECT whisperer.unregister_event_type('package-created');
SELECT whisperer.unregister_event_type('package-updated');
SELECT whisperer.detach('package', 'package-created');
CREATE TRIGGER by_hand AFTER INSERT ON package REFERENCING NEW TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created', '{"region": "eu"}');
SELECT whisperer.unregister_event_type('package-created');
DROP TRIGGER by_hand ON package;
SELECT whisperer.unregister_event_type('package-created');
-- The paused subscription cannot be resumed now, nor anybody subscribe.
SELECT whisperer.update_subscription(1, '{"is_active": true}');
SELECT whisperer.subscribe('package-created', 'https://example.com/other');
SELECT whisperer.register_event_type('package-created');
SELECT whisperer.update_subscription(1, '{"is_active": true}');

-- Rolled back, nothing of it stays.
BEGIN;
SELECT whisperer.register_event_type('never');
ROLLBACK;
SELECT whisperer.unregister_event_type('never');

-- In a read-only transaction: PostgreSQL's own error.
BEGIN READ ONLY;
SELECT whisperer.register_event_type('never');
ROLLBACK;

-- Without a grant nobody may call anything, nor see anything.
CREATE ROLE whisperer_nobody;
SET ROLE whisperer_nobody;
SELECT whisperer.register_event_type('never');
SELECT * FROM whisperer.event_types;
RESET ROLE;
-- Not even with EXECUTE.
GRANT USAGE ON SCHEMA whisperer TO whisperer_nobody;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA whisperer TO whisperer_nobody;
SET ROLE whisperer_nobody;
SELECT whisperer.register_event_type('never');
SELECT whisperer.update_event_type('package-created', '{}');
SELECT whisperer.unregister_event_type('package-created');
SELECT whisperer.subscribe('package-created', 'https://example.com/theirs');
SELECT whisperer.subscribe('{"event_type": "package-created", "target_url": "https://example.com/theirs"}');
SELECT whisperer.update_subscription(1, '{}'); -- as one that does not exist
SELECT whisperer.unsubscribe(1);
SELECT whisperer.attach('package', 'package-created');
SELECT whisperer.detach('package', 'package-created');
SELECT whisperer.countdown_preview(NULL);
SELECT whisperer.resume();
SELECT * FROM whisperer.event_types;
SELECT * FROM whisperer.subscriptions;
RESET ROLE;
DROP OWNED BY whisperer_nobody;
DROP ROLE whisperer_nobody;
DROP TABLE package;
DROP EXTENSION whisperer;
