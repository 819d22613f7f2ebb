-- Serializers and customizers that fail, in words, and whisperer.trigger_errors both ways. What they do when all is well is in
-- test/pgtap/serializers.sql.
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS whisperer CASCADE;
CREATE EXTENSION whisperer;
RESET client_min_messages;
-- Nothing of this is to be sent.
SELECT format('ALTER DATABASE %I SET whisperer.enabled = off', current_database()) \gexec

CREATE SCHEMA hooks;
CREATE ROLE whisperer_hooks;
GRANT USAGE ON SCHEMA hooks TO whisperer_hooks;
CREATE TABLE hooks.package (id int, note text);
-- What it returns is told by the row.
CREATE FUNCTION hooks.whim(p hooks.package) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF p.note = 'raise' THEN RAISE EXCEPTION 'no package %', p.id USING ERRCODE = 'P0099', DETAIL = 'It is one of a kind.'; END IF;
    IF p.note = 'long' THEN RETURN jsonb_build_object('long', repeat('x', 1048577)); END IF;
    RETURN p.note::jsonb;
END $$;
CREATE FUNCTION hooks.whim_body(body jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF body -> 'payload' ? 'raise' THEN RAISE EXCEPTION 'no body' USING ERRCODE = 'P0098'; END IF;
    IF body -> 'payload' ? 'long' THEN RETURN jsonb_build_object('long', repeat('x', 1048577)); END IF;
    RETURN body -> 'payload' -> 'body';
END $$;

SELECT whisperer.register_event_type('raw', 'hooks.whim');
SELECT whisperer.register_event_type('body', NULL, 'hooks.whim_body');
SELECT event_type, serializer, customizer FROM whisperer.event_types ORDER BY 1;
SELECT whisperer.subscribe(t, 'https://example.com/' || t || i) FROM unnest(ARRAY['raw', 'body']) t, generate_series(1, 2) i;

-- ---- deliver_event always raises
BEGIN;
SET LOCAL whisperer.trigger_errors = record;
SAVEPOINT s;
SELECT whisperer.deliver_event(ROW(1, 'raise')::hooks.package, 'raw');
ROLLBACK TO s;
SELECT whisperer.deliver_event(ROW(1, NULL)::hooks.package, 'raw');
ROLLBACK TO s;
SELECT whisperer.deliver_event(ROW(1, '[1]')::hooks.package, 'raw');
ROLLBACK TO s;
SELECT whisperer.deliver_event(ROW(1, '"text"')::hooks.package, 'raw');
ROLLBACK TO s;
SELECT whisperer.deliver_event(ROW(1, 'long')::hooks.package, 'raw');
ROLLBACK TO s;
SELECT whisperer.deliver_event('{"raise": 1}', 'body');
ROLLBACK TO s;
SELECT whisperer.deliver_event('{"body": 1}', 'body');
ROLLBACK TO s;
SELECT whisperer.deliver_event('{"body": [{}]}', 'body');
ROLLBACK TO s;
SELECT whisperer.deliver_event('{"body": null}', 'body');
ROLLBACK TO s;
SELECT whisperer.deliver_event('{"nothing": 1}', 'body');
ROLLBACK TO s;
SELECT whisperer.deliver_event('{"long": 1}', 'body');
ROLLBACK TO s;
-- Where it was: in the context.
\set SHOW_CONTEXT always
SELECT whisperer.deliver_event(ROW(1, 'raise')::hooks.package, 'raw');
\set SHOW_CONTEXT never
ROLLBACK;

-- ---- trigger_errors = error: the statement fails
SELECT whisperer.attach('hooks.package', 'raw');
INSERT INTO hooks.package VALUES (1, 'raise');
INSERT INTO hooks.package VALUES (2, NULL);
INSERT INTO hooks.package VALUES (3, 'long');
SELECT count(*) FROM hooks.package;
SELECT count(*) FROM whisperer.webhook_events;

-- ---- trigger_errors = record: it goes on, with one warning; each subscription has a failed delivery
BEGIN;
SET LOCAL whisperer.trigger_errors = record;
INSERT INTO hooks.package VALUES (1, 'raise');
INSERT INTO hooks.package VALUES (2, NULL);
INSERT INTO hooks.package VALUES (3, 'long');
INSERT INTO hooks.package VALUES (4, 'no json');
INSERT INTO hooks.package VALUES (5, '{"good": 1}');
SELECT count(*) FROM hooks.package;
SELECT subscription_id, state, retry_count, request_payload, error, relation FROM whisperer.failed ORDER BY created_date, error, subscription_id;
SELECT subscription_id, state, request_payload -> 'payload' AS payload FROM whisperer.pending ORDER BY 1;
-- Several rows of one statement, row by row and as one: the good ones are delivered, the others recorded.
DELETE FROM whisperer.history;
DELETE FROM whisperer.delivery;
INSERT INTO hooks.package VALUES (6, '{"n": 6}'), (7, 'raise'), (8, '{"n": 8}');
SELECT whisperer.detach('hooks.package', 'raw');
CREATE TRIGGER raw AFTER INSERT ON hooks.package REFERENCING NEW TABLE AS rows FOR EACH STATEMENT
    EXECUTE FUNCTION whisperer.deliver_event_trigger('raw');
INSERT INTO hooks.package VALUES (9, '{"n": 9}'), (10, 'raise'), (11, '{"n": 11}');
INSERT INTO hooks.package SELECT i, CASE WHEN i IN (777, 1111) THEN NULL ELSE '{"n": 1}' END FROM generate_series(1, 1200) i;
SELECT error, count(*), count(DISTINCT subscription_id) AS subscriptions FROM whisperer.failed GROUP BY 1 ORDER BY 1;
SELECT request_payload -> 'payload' AS payload, count(*) FROM whisperer.pending GROUP BY 1 ORDER BY 1;
SELECT subscription_id, count(*) FROM whisperer.webhook_events GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- A customizer: the row's deliveries fail together.
CREATE TABLE hooks.bodies (body jsonb, raise int);
SELECT whisperer.attach('hooks.bodies', 'body');
INSERT INTO hooks.bodies VALUES ('{"a": 1}');
BEGIN;
SET LOCAL whisperer.trigger_errors = record;
INSERT INTO hooks.bodies VALUES ('1');
SELECT subscription_id, state, request_payload, error FROM whisperer.webhook_events ORDER BY 1;
ROLLBACK;

-- A cancelled statement is cancelled, not recorded.
CREATE FUNCTION hooks.endless(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN LOOP END LOOP; END $$;
SELECT whisperer.update_event_type('body', '{"serializer": "hooks.endless"}');
BEGIN;
SET LOCAL whisperer.trigger_errors = record;
SET LOCAL statement_timeout = '50ms';
INSERT INTO hooks.bodies VALUES ('{"a": 1}');
ROLLBACK;
SELECT whisperer.update_event_type('body', '{"serializer": null}');

-- Nor is what is not the row's fault: conflicts with other transactions, resources; or a type that nobody can be told of.
CREATE FUNCTION hooks.raises(jsonb) RETURNS jsonb LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'raised %', $1->'body'->>'code' USING ERRCODE = $1->'body'->>'code'; END $$;
SELECT whisperer.update_event_type('body', '{"serializer": "hooks.raises"}');
BEGIN;
SET LOCAL whisperer.trigger_errors = record;
SAVEPOINT before;
INSERT INTO hooks.bodies VALUES ('{"code": "40001"}');
ROLLBACK TO before;
INSERT INTO hooks.bodies VALUES ('{"code": "40P01"}');
ROLLBACK TO before;
INSERT INTO hooks.bodies VALUES ('{"code": "53100"}');
ROLLBACK TO before;
INSERT INTO hooks.bodies VALUES ('{"code": "55P03"}');
DELETE FROM whisperer.event_type_entry WHERE event_type = 'body';
INSERT INTO hooks.bodies VALUES ('{"code": "55P03"}');
ROLLBACK;
SELECT whisperer.update_event_type('body', '{"serializer": null}');

-- ---- Functions and owners that are gone
CREATE FUNCTION hooks.mine(body jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT body';
SELECT whisperer.update_event_type('body', '{"customizer": "hooks.mine"}');
DROP FUNCTION hooks.mine(jsonb);
INSERT INTO hooks.bodies VALUES ('{"a": 1}');
BEGIN;
SET LOCAL whisperer.trigger_errors = record;
INSERT INTO hooks.bodies VALUES ('{"a": 1}');
ROLLBACK;
ALTER FUNCTION hooks.whim(hooks.package) RENAME TO wham;
INSERT INTO hooks.package VALUES (1, '{}');
ALTER FUNCTION hooks.wham(hooks.package) RENAME TO whim;
INSERT INTO hooks.package VALUES (1, '{}');
UPDATE whisperer.event_type_entry SET (owner_oid, owner_name) = (SELECT oid, rolname FROM pg_roles WHERE rolname = 'whisperer_hooks');
REVOKE EXECUTE ON FUNCTION hooks.whim(hooks.package) FROM PUBLIC;
INSERT INTO hooks.package VALUES (1, '{}');
GRANT EXECUTE ON FUNCTION hooks.whim(hooks.package) TO PUBLIC;
INSERT INTO hooks.package VALUES (2, '{}');
REVOKE ALL ON SCHEMA hooks FROM whisperer_hooks;
DROP ROLE whisperer_hooks;
INSERT INTO hooks.package VALUES (1, '{}');
BEGIN;
SET LOCAL whisperer.trigger_errors = record;
INSERT INTO hooks.package VALUES (1, '{}');
SELECT DISTINCT error FROM whisperer.failed;
ROLLBACK;
-- A role of the same name is another role.
CREATE ROLE whisperer_hooks SUPERUSER;
INSERT INTO hooks.package VALUES (1, '{}');
DROP ROLE whisperer_hooks;
SELECT whisperer.update_event_type('raw', '{"serializer": null}');
INSERT INTO hooks.package VALUES (1, '{}');

-- A table that is renamed takes its row type, and the serializer of that type, along.
CREATE TABLE hooks."New table" (id int);
CREATE FUNCTION hooks."As json"(hooks."New table") RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('a', $1.id) $$;
SELECT whisperer.register_event_type('renamed', 'hooks."As json"');
SELECT whisperer.subscribe('renamed', 'https://example.com/renamed');
SELECT whisperer.attach('hooks."New table"', 'renamed');
ALTER TABLE hooks."New table" RENAME TO old;
CREATE FUNCTION hooks."As json"(hooks.bodies) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"another": "table"}'::jsonb $$;
INSERT INTO hooks.old VALUES (1);
SELECT request_payload->'payload' FROM whisperer.pending WHERE event_type = 'renamed';
-- Another table takes the old name: its rows have no function, until there is one of the stored name, which then is the only one.
CREATE TABLE hooks."New table" (id int);
SELECT whisperer.attach('hooks."New table"', 'renamed');
INSERT INTO hooks.old VALUES (2);
INSERT INTO hooks."New table" VALUES (3);
SELECT request_payload->'payload' FROM whisperer.pending WHERE event_type = 'renamed' ORDER BY created_date;
CREATE FUNCTION hooks."As json"(hooks."New table") RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('b', $1.id) $$;
INSERT INTO hooks."New table" VALUES (4);
INSERT INTO hooks.old VALUES (5);
DROP TABLE hooks."New table" CASCADE;
-- Of the row's type there is none: what is missing, and what to do.
DROP FUNCTION hooks."As json"(hooks.old);
INSERT INTO hooks.old VALUES (6);
SELECT whisperer.deliver_event('{}'::jsonb, 'renamed');
-- One of somebody who has not the rights of the type's owner is not taken.
CREATE ROLE whisperer_other;
CREATE FUNCTION hooks."As json"(hooks.old) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('as', current_user) $$;
ALTER FUNCTION hooks."As json"(hooks.old) OWNER TO whisperer_other;
INSERT INTO hooks.old VALUES (7);
DROP FUNCTION hooks."As json"(hooks.old);
DROP ROLE whisperer_other;
SELECT whisperer.update_event_type('renamed', '{"serializer": null}');
DROP TABLE hooks.old;

-- What a security-restricted operation cannot do in somebody else's transaction: defer a check.
CREATE TABLE hooks.parent (id int PRIMARY KEY);
CREATE TABLE hooks.child (id int REFERENCES hooks.parent DEFERRABLE INITIALLY DEFERRED);
INSERT INTO hooks.parent VALUES (1);
CREATE FUNCTION hooks.writes(jsonb) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO hooks.child VALUES (1); SELECT $1 $$;
SELECT whisperer.register_event_type('writes', 'hooks.writes');
SELECT whisperer.subscribe('writes', 'https://example.com/writes');
SELECT whisperer.deliver_event('{}', 'writes');
-- What the transaction deferred stays deferred.
ALTER TABLE hooks.child ALTER CONSTRAINT child_id_fkey DEFERRABLE INITIALLY IMMEDIATE;
CREATE TABLE hooks.late (id int REFERENCES hooks.parent DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO hooks.late VALUES (2);
SELECT cardinality(whisperer.deliver_event('{}', 'writes')) AS deliveries;
INSERT INTO hooks.parent VALUES (2);
COMMIT;
SELECT * FROM hooks.child;

-- A temporary function would be another session's one day.
CREATE FUNCTION pg_temp.mine(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
SELECT whisperer.register_event_type('temporary', 'pg_temp.mine');

SET client_min_messages = warning;
DROP EXTENSION whisperer CASCADE;
DROP SCHEMA hooks CASCADE;
SELECT format('ALTER DATABASE %I RESET whisperer.enabled', current_database()) \gexec
