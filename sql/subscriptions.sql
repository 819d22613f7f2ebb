-- Subscriptions: making, changing, pausing, ending, and what the view shows.
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS whisperer CASCADE;
CREATE EXTENSION whisperer;
RESET client_min_messages;

SELECT whisperer.register_event_type('package-created');
SELECT whisperer.register_event_type('package-updated');

SELECT whisperer.subscribe('package-created', 'https://example.com/hook');
SELECT whisperer.subscribe('package-created', 'https://example.com/full', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', NULL,
    '{"choice": "exponential", "kwargs": {"base": 2}}', '{"Authorization": "Basic x", "X-Region": "eu", "Content-Type": "text/plain"}',
    '{"auth": {"auth_type": "basic", "username": "me", "password": "s3cret"}, "region": "eu", "max_attempts": 3.0,
      "max_in_flight": 2, "request_timeout": [5, 10]}');
SELECT whisperer.subscribe('{"event_type": "package-created", "target_url": "http://localhost:8080/json",
    "secret_key": "secret", "callback": null, "retry_countdown_config": {"choice": "fixed", "kwargs": {"seconds": 60}},
    "additional_headers": {"X-A": ""}, "config": {"auth": {"auth_type": "bearer", "token": "s3cret"}, "request_timeout": "(5, 10)"}}');
SELECT whisperer.subscribe('package-created', 'https://example.com/token', config =>
    '{"auth": {"auth_type": "token", "url": "https://example.com/login", "username": "me", "password": "s3cret",
      "username_field": "user", "password_field": "pass", "token_key": "token", "header_format": "Bearer {}"}, "request_timeout": 2.5}');
\x on
SELECT id, owner = current_user AS mine, event_type, target_url, is_active, inactive_reason, has_secret, auth_type, callback,
    retry_countdown_config, additional_headers, config FROM whisperer.subscriptions ORDER BY id;
\x off

-- One for an owner, a URL and an event type.
SELECT whisperer.subscribe('package-created', 'https://example.com/hook');
SELECT whisperer.subscribe('package-updated', 'https://example.com/hook');
SELECT max(id) AS other FROM whisperer.subscriptions \gset
SELECT whisperer.update_subscription(:other, '{"event_type": "package-created"}');
SELECT whisperer.update_subscription(:other, '{"event_type": "package-created", "target_url": "https://example.com/other"}');

-- Keys given are changed, the others stay; null removes.
CREATE VIEW secrets AS SELECT subscription_id, secret_key, auth->>'auth_type' AS auth_type, auth ? 'password' AS password
    FROM whisperer.subscription_secret;
SELECT * FROM secrets ORDER BY 1;
SELECT whisperer.update_subscription(2, '{"target_url": "https://example.com/changed"}');
SELECT whisperer.update_subscription(2, '{"config": {"region": "us"}}'); -- auth stays, the rest goes
SELECT target_url, has_secret, auth_type, retry_countdown_config, config, modified_date > created_date AS dated
    FROM whisperer.subscriptions WHERE id = 2;
SELECT whisperer.update_subscription(2, '{"secret_key": null, "retry_countdown_config": null}');
SELECT whisperer.update_subscription(2, '{"additional_headers": {}}');
SELECT has_secret, auth_type, retry_countdown_config, additional_headers, config FROM whisperer.subscriptions WHERE id = 2;
SELECT whisperer.update_subscription(2, '{"config": {"auth": {"auth_type": "bearer", "token": "other"}}}');
SELECT auth_type, config FROM whisperer.subscriptions WHERE id = 2;
SELECT * FROM secrets ORDER BY 1;
SELECT whisperer.update_subscription(2, '{"config": {"auth": null, "region": "eu"}}');
SELECT auth_type, config FROM whisperer.subscriptions WHERE id = 2;
SELECT whisperer.update_subscription(1, '{"secret_key": "new"}');
SELECT * FROM secrets ORDER BY 1;
-- Its own name again is no second one.
SELECT whisperer.update_subscription(1, '{"target_url": "https://example.com/hook", "event_type": "package-created"}');
-- Every change is stamped for the workers.
BEGIN;
SELECT whisperer.update_subscription(1, '{"config": {"region": "eu"}}');
SELECT whisperer.update_subscription(3, '{}');
SELECT id, change_xid = pg_current_xact_id() AS stamped FROM whisperer.subscription WHERE id IN (1, 3) ORDER BY id;
ROLLBACK;

-- Pausing and resuming. Events raised meanwhile are not for it.
SELECT whisperer.update_subscription(1, '{"is_active": false}');
SELECT is_active, inactive_reason FROM whisperer.subscriptions WHERE id = 1;
BEGIN;
SELECT cardinality(whisperer.deliver_event('{"id": 1}'::jsonb, 'package-created')) AS deliveries;
ROLLBACK;
SELECT whisperer.subscribe('package-created', 'https://example.com/hook');
SELECT whisperer.update_subscription(1, '{"is_active": true}');
SELECT is_active, inactive_reason FROM whisperer.subscriptions WHERE id = 1;
-- After a 410 the worker's reason stays until it is resumed.
UPDATE whisperer.subscription SET is_active = false, inactive_reason = 'the receiver answered 410' WHERE id = 1;
SELECT whisperer.update_subscription(1, '{"is_active": false}');
SELECT is_active, inactive_reason FROM whisperer.subscriptions WHERE id = 1;
SELECT whisperer.update_subscription(1, '{"is_active": true}');
SELECT is_active, inactive_reason FROM whisperer.subscriptions WHERE id = 1;

-- Filters see the user's own keys.
BEGIN;
SELECT whisperer.update_subscription(2, '{"config": {"region": "eu", "nested": {"a": 1}}}');
SELECT cardinality(whisperer.deliver_event('{"id": 1}'::jsonb, 'package-created', config_filter => '{"region": "eu"}')) AS eu,
    cardinality(whisperer.deliver_event('{"id": 1}'::jsonb, 'package-created', config_filter => '{"region": "xx"}')) AS xx;
ROLLBACK;

-- Ending: what is pending is cancelled, the secret goes, the record stays, and the same can be subscribed again.
BEGIN;
SELECT cardinality(whisperer.deliver_event('{"id": 1}'::jsonb, 'package-created', config_filter => '{"region": "eu"}')) AS deliveries;
SELECT whisperer.update_subscription(2, '{"secret_key": "forgotten"}');
SELECT whisperer.unsubscribe(2);
SELECT subscription_id, state FROM whisperer.webhook_events;
COMMIT;
SELECT is_active, inactive_reason, has_secret FROM whisperer.subscriptions WHERE id = 2;
SELECT * FROM secrets ORDER BY 1;
SELECT whisperer.unsubscribe(2);
SELECT whisperer.update_subscription(2, '{"is_active": true}');
SELECT whisperer.subscribe('package-created', 'https://example.com/changed') > 2 AS again;

-- Owners. Each role has its own; a superuser may change another's, who stays the owner.
CREATE ROLE whisperer_alice SUPERUSER;
CREATE ROLE whisperer_bob;
SET ROLE whisperer_alice;
SELECT whisperer.subscribe('package-created', 'https://example.com/hook') AS alices \gset
RESET ROLE;
SELECT owner, event_type, target_url FROM whisperer.subscriptions WHERE id = :alices;
SELECT whisperer.update_subscription(:alices, '{"config": {"by": "another"}}');
SELECT owner, config FROM whisperer.subscriptions WHERE id = :alices;
-- Renamed: the same owner.
ALTER ROLE whisperer_alice RENAME TO whisperer_alison;
SELECT owner FROM whisperer.subscriptions WHERE id = :alices;
-- Somebody else's is as one that does not exist. Ending one's own takes no further privilege.
ALTER ROLE whisperer_alison NOSUPERUSER;
GRANT USAGE ON SCHEMA whisperer TO whisperer_alison, whisperer_bob;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA whisperer TO whisperer_alison, whisperer_bob;
SET ROLE whisperer_bob;
SELECT whisperer.unsubscribe(:alices);
SET ROLE whisperer_alison;
SELECT whisperer.unsubscribe(1);
SELECT whisperer.unsubscribe(:alices);
RESET ROLE;
SELECT owner, is_active FROM whisperer.subscriptions WHERE id = :alices;
DROP OWNED BY whisperer_alison, whisperer_bob;
DROP ROLE whisperer_alison, whisperer_bob;
-- The name last seen stays: before or after the renaming, as the worker came to look.
SELECT owner IN ('whisperer_alice', 'whisperer_alison') AS shown FROM whisperer.subscriptions WHERE id = :alices;
-- Dropped while it was active: held.
CREATE ROLE whisperer_dave SUPERUSER;
SET ROLE whisperer_dave;
SELECT whisperer.subscribe('package-created', 'https://example.com/hook') AS daves \gset
RESET ROLE;
DROP ROLE whisperer_dave;
SELECT owner, is_active, inactive_reason FROM whisperer.subscriptions WHERE id = :daves;
SELECT is_active FROM whisperer.subscription_health WHERE subscription_id = :daves;
SELECT whisperer.update_subscription(:daves, '{"is_active": true}');
SELECT whisperer.update_subscription(:daves, '{"config": {"still": "possible"}}');

-- A copy: rows with numbers of another cluster. resume() finds owners by name, once, and stamps the rest anew.
CREATE ROLE whisperer_carol;
SELECT whisperer.register_event_type('carols');
INSERT INTO whisperer.subscription (owner_oid, owner_name, owner_system, event_type, target_url, change_xid) VALUES
    (4000000000, 'whisperer_carol', 1, 'carols', 'https://example.com/carol', '1'),
    (4000000001, 'whisperer_gone', 1, 'carols', 'https://example.com/gone', '1'),
    (4000000002, current_user, 1, 'carols', 'https://example.com/me', '1');
UPDATE whisperer.home SET system_identifier = 1;
-- Not yet resumed, the owner's name counts.
SELECT whisperer.subscribe('carols', 'https://example.com/me');
SELECT whisperer.resume();
SELECT target_url, owner = current_user AS mine, owner LIKE '%carol' AS carols, is_active, inactive_reason
    FROM whisperer.subscriptions WHERE event_type = 'carols' ORDER BY 1;
SELECT owner_oid = 'whisperer_carol'::regrole AS found, owner_system = (SELECT system_identifier FROM pg_control_system()) AS here
    FROM whisperer.subscription WHERE target_url LIKE '%carol';
SELECT count(*) FROM whisperer.subscription WHERE change_xid = '1';
SELECT count(*), bool_and(system_identifier = (SELECT system_identifier FROM pg_control_system())) FROM whisperer.home;
-- Nobody inherits what was lost.
CREATE ROLE whisperer_gone;
SELECT whisperer.resume();
SELECT target_url, is_active FROM whisperer.subscriptions WHERE event_type = 'carols' ORDER BY 1;
-- Owners dropped since are seen as well.
DROP ROLE whisperer_carol, whisperer_gone;
SELECT whisperer.resume();
SELECT target_url, is_active FROM whisperer.subscriptions WHERE event_type = 'carols' ORDER BY 1;

DROP VIEW secrets;
DROP EXTENSION whisperer;
