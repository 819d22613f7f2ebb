-- Serializers and customizers: what they get, what becomes of what they return, as whom they run, and what they leave behind.
-- What is said when they fail is in sql/serializers.sql. parity rows 2, 3, 4, 26, 27.
BEGIN;
SELECT plan(57);

CREATE SCHEMA hooks;
CREATE ROLE hooks_owner;   -- owns the event types and their functions
CREATE ROLE hooks_writer;  -- writes tables, and may do nothing else
GRANT USAGE ON SCHEMA hooks TO hooks_owner, hooks_writer;

CREATE TABLE hooks.customer (id int PRIMARY KEY, name text);
CREATE TABLE hooks.package (id int, customer_id int, made timestamptz);
INSERT INTO hooks.customer VALUES (7, 'Ada');
GRANT SELECT ON hooks.customer, hooks.package TO hooks_owner;
GRANT INSERT, UPDATE, DELETE, SELECT ON hooks.package TO hooks_writer;

-- Registers a type and gives it to hooks_owner, who is no admin.
CREATE FUNCTION pg_temp.register(type text, serializer text, customizer text DEFAULT NULL, subscribers int DEFAULT 1)
    RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM whisperer.register_event_type(type, serializer, customizer);
    UPDATE whisperer.event_type_entry SET (owner_oid, owner_name) =
        (SELECT oid, rolname FROM pg_roles WHERE rolname = 'hooks_owner') WHERE event_type = type;
    PERFORM whisperer.subscribe(type, format('http://receiver.test/%s/%s', md5(type), i)) FROM generate_series(1, subscribers) i;
END $$;
-- What was written for a type since it was last asked.
CREATE FUNCTION pg_temp.payloads(type text) RETURNS jsonb[] LANGUAGE plpgsql AS $$
DECLARE result jsonb[];
BEGIN
    SELECT array_agg(e.request_payload -> 'payload' ORDER BY e.request_payload -> 'payload') INTO result
    FROM whisperer.webhook_events e WHERE e.event_type = type;
    DELETE FROM whisperer.delivery d WHERE d.event_type = type;
    RETURN coalesce(result, '{}');
END $$;
-- Runs a statement as a role: 'ok', or the error's code.
CREATE FUNCTION pg_temp.run_as(role_name text, statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role_name);
    EXECUTE statement;
    RESET ROLE;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;

-- ---- A serializer of the row's type
CREATE FUNCTION hooks.package_json(package hooks.package) RETURNS jsonb STABLE LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', package.id, 'customer', c.name, 'siblings',
                              (SELECT count(*) FROM hooks.package p WHERE p.customer_id = package.customer_id))
    FROM hooks.customer c WHERE c.id = package.customer_id $$;
SELECT pg_temp.register('package', 'hooks.package_json');
SELECT whisperer.attach('hooks.package', 'package', 'INSERT OR DELETE');
SELECT is(pg_temp.run_as('hooks_writer', 'SELECT * FROM hooks.customer'), '42501', 'the writer may not read what the serializer reads');
SELECT is(pg_temp.run_as('hooks_writer', $$INSERT INTO hooks.package VALUES (1, 7)$$), 'ok', 'the writer may write');
SELECT is(pg_temp.payloads('package'), ARRAY['{"id": 1, "customer": "Ada", "siblings": 1}'::jsonb],
    'rows 2, 3: a STABLE serializer of the row type sees what the statement wrote');
SELECT is(pg_temp.run_as('hooks_writer', 'INSERT INTO hooks.package VALUES (2, 7), (3, 7); DELETE FROM hooks.package WHERE id = 3'), 'ok',
    'two statements');
SELECT is(pg_temp.payloads('package'), ARRAY['{"id": 2, "customer": "Ada", "siblings": 3}', '{"id": 3, "customer": "Ada", "siblings": 2}',
    '{"id": 3, "customer": "Ada", "siblings": 3}']::jsonb[], 'row 26: of a deleted row, too');
SELECT is((SELECT cardinality(whisperer.deliver_event(p, 'package')) FROM hooks.package p WHERE id = 1), 1, 'deliver_event of a row');
SELECT is(pg_temp.payloads('package'), ARRAY['{"id": 1, "customer": "Ada", "siblings": 2}']::jsonb[], 'calls it');
CREATE FUNCTION pg_temp.by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM whisperer.deliver_event(NEW, 'package'); RETURN NULL; END $$;
CREATE TRIGGER by_hand AFTER UPDATE ON hooks.package FOR EACH ROW EXECUTE FUNCTION pg_temp.by_hand();
UPDATE hooks.package SET made = NULL WHERE id = 1;
DO $$ DECLARE r record; BEGIN
    FOR r IN SELECT p FROM hooks.package p WHERE id = 2 LOOP PERFORM whisperer.deliver_event(r.p, 'package'); END LOOP;
END $$;
SELECT is(cardinality(pg_temp.payloads('package')), 2, 'NEW of a trigger, and a row in a record');
SELECT throws_ok($$SELECT whisperer.deliver_event('{"id": 1}'::jsonb, 'package')$$, '42804',
    'serializer: function hooks.package_json(hooks.package) takes hooks.package, not pg_catalog.jsonb', 'jsonb does not fit');
SELECT throws_ok($$SELECT whisperer.deliver_event('{"id": 1}', 'package')$$, '42804',
    'serializer: function hooks.package_json(hooks.package) takes hooks.package, not pg_catalog.jsonb', 'nor text');
SELECT throws_ok($$SELECT whisperer.deliver_event(c, 'package') FROM hooks.customer c$$, '42804',
    'serializer: function hooks.package_json(hooks.package) takes hooks.package, not hooks.customer', 'nor another table''s row');
SELECT throws_ok($$SELECT whisperer.deliver_event(ROW(1, 7), 'package')$$, '42804',
    'serializer: function hooks.package_json(hooks.package) takes hooks.package, not pg_catalog.record', 'nor a row of no type');
CREATE DOMAIN hooks.package_domain AS hooks.package CHECK ((VALUE).id > 0);
SELECT is((SELECT cardinality(whisperer.deliver_event(p::hooks.package_domain, 'package')) FROM hooks.package p WHERE id = 1), 1,
    'a domain over the row type fits');

-- A composite type of no table.
CREATE TYPE hooks.point AS (x int, y int);
CREATE FUNCTION hooks.point_json(hooks.point) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RETURN json_build_object('at', $1.x || ';' || $1.y); END $$;
SELECT pg_temp.register('point', 'hooks.point_json');
SELECT whisperer.deliver_event(ROW(1, 2)::hooks.point, 'point');
SELECT is(pg_temp.payloads('point'), ARRAY['{"at": "1;2"}']::jsonb[], 'a composite type; a serializer that returns json');

-- ---- A serializer of jsonb
CREATE FUNCTION hooks.wrap(value jsonb) RETURNS jsonb IMMUTABLE STRICT LANGUAGE sql AS $$ SELECT jsonb_build_object('wrapped', value) $$;
SELECT pg_temp.register('any', 'hooks.wrap');
SELECT whisperer.deliver_event(c, 'any') FROM hooks.customer c;
SELECT is(pg_temp.payloads('any'), ARRAY['{"wrapped": {"id": 7, "name": "Ada"}}']::jsonb[], 'of jsonb: gets to_jsonb(row)');
SELECT whisperer.deliver_event(ROW(1, 'x'), 'any');
SELECT is(pg_temp.payloads('any'), ARRAY['{"wrapped": {"f1": 1, "f2": "x"}}']::jsonb[], 'of a record');
SELECT whisperer.deliver_event('{"a": 1}'::jsonb, 'any'), whisperer.deliver_event('{"a": 2}', 'any'), whisperer.deliver_event('{"a": 3}'::json, 'any');
SELECT is(pg_temp.payloads('any'), ARRAY['{"wrapped": {"a": 1}}', '{"wrapped": {"a": 2}}', '{"wrapped": {"a": 3}}']::jsonb[],
    'row 27: of jsonb, text, json');

-- ---- Partitions: the trigger's table gives the row type, whatever order a partition has its columns in
CREATE TABLE hooks.parcel (id int, place text, weight numeric) PARTITION BY LIST (place);
CREATE TABLE hooks.parcel_north (weight numeric, gone int, place text, id int);
ALTER TABLE hooks.parcel_north DROP COLUMN gone;
ALTER TABLE hooks.parcel ATTACH PARTITION hooks.parcel_north FOR VALUES IN ('north');
CREATE TABLE hooks.parcel_south PARTITION OF hooks.parcel FOR VALUES IN ('south');
GRANT ALL ON hooks.parcel, hooks.parcel_north TO hooks_writer;
CREATE FUNCTION hooks.parcel_json(p hooks.parcel) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN RETURN jsonb_build_object('at', p.id || ' ' || p.place || ' ' || p.weight, 'type', pg_typeof(p)); END $$;
SELECT pg_temp.register('parcel', 'hooks.parcel_json');
SELECT whisperer.attach('hooks.parcel', 'parcel', 'INSERT OR UPDATE OR DELETE');
SELECT is(pg_temp.run_as('hooks_writer', $$INSERT INTO hooks.parcel VALUES (1, 'north', 5), (2, 'south', 6)$$), 'ok', 'into the partitioned table');
SELECT is(pg_temp.payloads('parcel'), ARRAY['{"at": "1 north 5", "type": "hooks.parcel"}', '{"at": "2 south 6", "type": "hooks.parcel"}']::jsonb[],
    'rows of partitions come in the form of the partitioned table');
SELECT is(pg_temp.run_as('hooks_writer', $$INSERT INTO hooks.parcel_north (id, place, weight) VALUES (3, 'north', 7)$$), 'ok', 'into a partition');
SELECT is(pg_temp.payloads('parcel'), ARRAY['{"at": "3 north 7", "type": "hooks.parcel"}']::jsonb[], 'the same');
UPDATE hooks.parcel SET place = 'south' WHERE id = 3;
SELECT is(pg_temp.payloads('parcel'), ARRAY['{"at": "3 north 7", "type": "hooks.parcel"}', '{"at": "3 south 7", "type": "hooks.parcel"}']::jsonb[],
    'a row that moves: a delete and an insert');
SELECT whisperer.deliver_event(p, 'parcel') FROM hooks.parcel_north p;
SELECT is(pg_temp.payloads('parcel'), ARRAY['{"at": "1 north 5", "type": "hooks.parcel"}']::jsonb[], 'a partition''s row given to deliver_event');
ALTER TABLE hooks.parcel RENAME TO parcels;
INSERT INTO hooks.parcels VALUES (4, 'north', 8);
SELECT whisperer.deliver_event(p, 'parcel') FROM hooks.parcel_north p WHERE id = 4;
SELECT is(pg_temp.payloads('parcel'), array_fill('{"at": "4 north 8", "type": "hooks.parcels"}'::jsonb, ARRAY[2]), 'and after the partitioned table was renamed');
ALTER TABLE hooks.parcels RENAME TO parcel;
DELETE FROM hooks.parcel WHERE id = 4;
SELECT pg_temp.payloads('parcel');
SELECT whisperer.detach('hooks.parcel', 'parcel');
CREATE TRIGGER whole AFTER INSERT ON hooks.parcel REFERENCING NEW TABLE AS rows FOR EACH STATEMENT
    EXECUTE FUNCTION whisperer.deliver_event_trigger('parcel');
INSERT INTO hooks.parcel SELECT i, CASE WHEN i % 2 = 0 THEN 'north' ELSE 'south' END, 1 FROM generate_series(1, 1201) i;
SELECT is((SELECT array_agg(DISTINCT p ->> 'type') || count(DISTINCT p)::text FROM unnest(pg_temp.payloads('parcel')) p),
    ARRAY['hooks.parcel', '1201'], 'a statement trigger: every row once, in the same form');

-- ---- Not called when nobody subscribes
CREATE FUNCTION hooks.broken(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken' USING ERRCODE = 'P0099'; END $$;
SELECT pg_temp.register('unwanted', 'hooks.broken', NULL, 0);
CREATE TRIGGER unwanted AFTER INSERT ON hooks.customer FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('unwanted');
SELECT lives_ok($$INSERT INTO hooks.customer VALUES (8, 'Bob')$$, 'nobody subscribes: the trigger does not call it');
SELECT is(whisperer.deliver_event('{}', 'unwanted'), '{}', 'nor does deliver_event');
DROP TRIGGER unwanted ON hooks.customer;

-- ---- As whom, and with what around it
CREATE FUNCTION hooks.look(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN jsonb_build_object('user', current_user, 'path', current_setting('search_path'), 'time', timestamptz '2026-01-01 00:00Z',
        'interval', interval '1 day', 'bytea', '\x01'::bytea, 'float', 0.1::float8 + 0.2::float8, 'superuser',
        (SELECT rolsuper FROM pg_roles WHERE rolname = current_user));
END $$;
SELECT pg_temp.register('look', 'hooks.look', 'hooks.look');
SET LOCAL TimeZone = 'Asia/Tokyo';
SET LOCAL DateStyle = 'German';
SET LOCAL IntervalStyle = 'postgres_verbose';
SET LOCAL bytea_output = 'escape';
SET LOCAL extra_float_digits = -5;
SELECT whisperer.deliver_event('{}', 'look');
SELECT is((SELECT payload::jsonb FROM whisperer.delivery WHERE event_type = 'look'),
    '{"user": "hooks_owner", "superuser": false, "path": "pg_catalog, pg_temp", "time": "2026-01-01T00:00:00+00:00", "interval": "P1D", "bytea": "\\x01", "float": 0.30000000000000004}',
    'a serializer runs as the type''s owner, for a superuser too, and with settings of its own');
SELECT is((SELECT body::jsonb FROM whisperer.delivery WHERE event_type = 'look'), (SELECT payload::jsonb FROM whisperer.delivery WHERE event_type = 'look'),
    'so does a customizer');
SELECT is(current_setting('TimeZone') || current_setting('search_path'), 'Asia/Tokyo' || current_setting('search_path'), 'the session has its own again');
SELECT is(current_user, session_user, 'and its user');

-- What a superuser's INSERT must not do for somebody else.
CREATE FUNCTION hooks.attack(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE statement text; states jsonb := '{}';
BEGIN
    FOREACH statement IN ARRAY ARRAY['ALTER ROLE hooks_owner SUPERUSER', 'SET ROLE postgres', 'RESET ROLE', 'SET SESSION AUTHORIZATION DEFAULT',
        'CREATE TEMP TABLE t ()', 'DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'SELECT * FROM whisperer.subscription_secret'] LOOP
        BEGIN
            EXECUTE statement;
            states := states || jsonb_build_object(statement, 'done');
        EXCEPTION WHEN OTHERS THEN
            states := states || jsonb_build_object(statement, SQLSTATE);
        END;
    END LOOP;
    RETURN states;
END $$;
SELECT pg_temp.register('attack', 'hooks.attack');
SELECT whisperer.deliver_event('{}', 'attack');
SELECT is(pg_temp.payloads('attack'), ARRAY['{"ALTER ROLE hooks_owner SUPERUSER": "42501", "SET ROLE postgres": "42501", "RESET ROLE": "42501",
    "SET SESSION AUTHORIZATION DEFAULT": "42501", "CREATE TEMP TABLE t ()": "42501", "DECLARE c CURSOR WITH HOLD FOR SELECT 1": "42501",
    "SELECT * FROM whisperer.subscription_secret": "42501"}']::jsonb[], 'a superuser''s call runs nothing as superuser');

-- What it sets and locks.
CREATE FUNCTION hooks.litter(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('work_mem', '77MB', false), set_config('hooks.litter', 'yes', false), set_config('search_path', 'hooks', false);
    PERFORM pg_advisory_lock(4711), pg_advisory_lock_shared(4712), pg_advisory_xact_lock(4713), pg_advisory_lock(4714);
    RETURN '{}';
END $$;
SELECT pg_temp.register('litter', 'hooks.litter');
SELECT pg_advisory_lock(4714), pg_advisory_lock_shared(4715);
SELECT whisperer.deliver_event('{}', 'litter');
SELECT isnt(current_setting('work_mem'), '77MB', 'what a serializer sets is undone');
SELECT is(coalesce(current_setting('hooks.litter', true), ''), '', 'a setting it makes, too');
SELECT results_eq($$SELECT objid::int, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid BETWEEN 4711 AND 4715 ORDER BY 1$$,
    $$VALUES (4713, 'ExclusiveLock'), (4714, 'ExclusiveLock'), (4715, 'ShareLock')$$,
    'its session-level advisory locks are released; the transaction''s, and the session''s own, are kept');
SELECT pg_advisory_unlock_all();

-- A temporary table of the writer's is not what an unqualified name finds, if there is one in pg_catalog; a temporary function is refused.
CREATE FUNCTION pg_temp.mine(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
SELECT throws_like($$SELECT whisperer.register_event_type('temporary', 'pg_temp.mine')$$, '%temporary%', 'a temporary function is refused');

-- ---- Calls within calls, and errors that were caught
CREATE FUNCTION hooks.deeper(value jsonb) RETURNS int SECURITY DEFINER LANGUAGE plpgsql AS $$
BEGIN
    IF (value ->> 'n')::int = 0 THEN RETURN 0; END IF;
    RETURN cardinality(whisperer.deliver_event(jsonb_build_object('n', (value ->> 'n')::int - 1), 'nested'));
END $$;
CREATE FUNCTION hooks.nested(value jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('n', value -> 'n', 'inner', hooks.deeper(value)) $$;
SELECT pg_temp.register('nested', 'hooks.nested');
SELECT whisperer.deliver_event('{"n": 3}', 'nested'), whisperer.deliver_event('{"n": 1}', 'nested');
SELECT is(pg_temp.payloads('nested'), ARRAY['{"n": 0, "inner": 0}', '{"n": 0, "inner": 0}', '{"n": 1, "inner": 1}', '{"n": 1, "inner": 1}',
    '{"n": 2, "inner": 1}', '{"n": 3, "inner": 1}']::jsonb[], 'a serializer that raises events of its own type');
CREATE FUNCTION hooks.inverse(value jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('i', 12 / (value ->> 'n')::int) $$;
SELECT pg_temp.register('inverse', 'hooks.inverse');
DO $$ BEGIN
    FOR n IN -2 .. 2 LOOP
        BEGIN
            PERFORM whisperer.deliver_event(jsonb_build_object('n', n), 'inverse');
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP;
    PERFORM whisperer.deliver_event('{"n": 12}', 'inverse'), whisperer.deliver_event('{"n": 6}', 'inverse');
END $$;
SELECT is(pg_temp.payloads('inverse'), ARRAY['{"i": -12}', '{"i": -6}', '{"i": 1}', '{"i": 2}', '{"i": 6}', '{"i": 12}']::jsonb[],
    'errors that the session catches do no harm to later calls');

-- ---- Functions change
CREATE OR REPLACE FUNCTION hooks.inverse(value jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"replaced": true}'::jsonb $$;
SELECT whisperer.deliver_event('{"n": 0}', 'inverse');
SELECT is(pg_temp.payloads('inverse'), ARRAY['{"replaced": true}']::jsonb[], 'replaced: the new one at once');
DROP FUNCTION hooks.inverse(jsonb);
SELECT throws_ok($$SELECT whisperer.deliver_event('{"n": 1}', 'inverse')$$, '42883', 'serializer: function hooks.inverse(jsonb) does not exist', 'dropped');
CREATE FUNCTION public.inverse(value jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"wrong": true}'::jsonb $$;
CREATE FUNCTION hooks.inverse(value json) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"wrong": true}'::jsonb $$;
SET LOCAL search_path = hooks, public;
SELECT throws_ok($$SELECT whisperer.deliver_event('{"n": 1}', 'inverse')$$, '42883', NULL, 'no function of another schema, or of other types, takes its place');
CREATE FUNCTION hooks.inverse(value jsonb) RETURNS text LANGUAGE sql AS $$ SELECT '{}' $$;
SELECT throws_ok($$SELECT whisperer.deliver_event('{"n": 1}', 'inverse')$$, '42804', 'serializer: function hooks.inverse(jsonb) returns text, not jsonb', 'another result');
DROP FUNCTION hooks.inverse(jsonb);
CREATE FUNCTION hooks.inverse(value jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"again": true}'::jsonb $$;
SELECT whisperer.deliver_event('{"n": 0}', 'inverse');
SELECT is(pg_temp.payloads('inverse'), ARRAY['{"again": true}']::jsonb[], 'made again');
REVOKE EXECUTE ON FUNCTION hooks.inverse(jsonb) FROM PUBLIC;
SELECT throws_ok($$SELECT whisperer.deliver_event('{"n": 1}', 'inverse')$$, '42501', 'serializer: permission denied for function hooks.inverse(jsonb)',
    'the owner''s EXECUTE is checked at each call, whoever calls');
GRANT EXECUTE ON FUNCTION hooks.inverse(jsonb) TO hooks_owner;
REVOKE USAGE ON SCHEMA hooks FROM hooks_owner;
SELECT throws_ok($$SELECT whisperer.deliver_event('{"n": 1}', 'inverse')$$, '42501', NULL, 'and USAGE of the schema');
GRANT USAGE ON SCHEMA hooks TO hooks_owner;
SELECT whisperer.update_event_type('inverse', '{"serializer": null}') IS NULL;
SELECT whisperer.deliver_event('{"n": 0}', 'inverse');
SELECT is(pg_temp.payloads('inverse'), ARRAY['{"n": 0}']::jsonb[], 'update_event_type: without a serializer');
SELECT whisperer.update_event_type('inverse', '{"serializer": "hooks.wrap"}');
SELECT whisperer.deliver_event('{"n": 0}', 'inverse');
SELECT is(pg_temp.payloads('inverse'), ARRAY['{"wrapped": {"n": 0}}']::jsonb[], 'and with another');

-- ---- Customizers
CREATE FUNCTION hooks.flat(body jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('type', body #> '{event,type}', 'uuid', body #> '{event,uuid}', 'all', body, 'extra', (body -> 'payload' ->> 'n')::int + 1) $$;
SELECT pg_temp.register('flat "é"', NULL, 'hooks.flat', 3);
SELECT whisperer.deliver_event('{"n": 1, "text": "é\u0001\\"}', 'flat "é"');
SELECT is((SELECT count(DISTINCT body::jsonb ->> 'uuid') FROM whisperer.delivery WHERE body::jsonb ->> 'uuid' = replace(uuid::text, '-', '')), 3::bigint,
    'row 4: called for each delivery, with its uuid');
SELECT is_empty($$SELECT 1 FROM whisperer.delivery d JOIN whisperer.event e ON e.uuid = d.event_uuid
    WHERE d.event_type = 'flat "é"' AND d.body::jsonb -> 'all' IS DISTINCT FROM jsonb_build_object('event', jsonb_build_object('type', d.event_type, 'uuid', replace(d.uuid::text, '-', '')), 'payload', e.payload::jsonb)$$,
    'it gets the whole of the usual body');
SELECT is((SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'flat "é"' AND request_payload ->> 'extra' = '2' AND request_payload ->> 'type' = event_type),
    3::bigint, 'webhook_events shows what it made');
SELECT is((SELECT count(DISTINCT event_uuid) FROM whisperer.delivery WHERE event_type = 'flat "é"'), 1::bigint, 'the payload is stored besides, once');
SELECT whisperer.update_event_type('flat "é"', '{"customizer": null}');
SELECT whisperer.deliver_event('{"n": 2}', 'flat "é"');
SELECT is((SELECT count(*) FROM whisperer.delivery WHERE event_type = 'flat "é"' AND body IS NULL), 3::bigint, 'without it, later events have the usual body');
-- Serializer and customizer together, for a writer without any privilege, in rows of one statement; more than one batch of each.
CREATE FUNCTION hooks.pad(body jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT body || jsonb_build_object('pad', repeat('x', 3000)) $$;
SELECT pg_temp.register('both', 'hooks.wrap', 'hooks.pad', 3);
CREATE TABLE hooks.big (n int);
GRANT INSERT ON hooks.big TO hooks_writer;
CREATE TRIGGER big AFTER INSERT ON hooks.big REFERENCING NEW TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('both');
SELECT is(pg_temp.run_as('hooks_writer', 'INSERT INTO hooks.big SELECT generate_series(1, 1100)'), 'ok', 'a statement of 1,100 rows');
SELECT is((SELECT array[count(*), count(DISTINCT uuid), count(DISTINCT request_payload #> '{payload,wrapped,n}'), count(DISTINCT request_payload #> '{event,uuid}'),
        min(length(request_payload ->> 'pad'))] FROM whisperer.webhook_events WHERE event_type = 'both'),
    ARRAY[3300, 3300, 1100, 3300, 3000]::bigint[], 'each row for each subscription, with a body of its own');
SELECT is((SELECT count(*) FROM whisperer.delivery d JOIN whisperer.event e ON e.uuid = d.event_uuid WHERE event_type = 'both'), 3300::bigint,
    'and the payload of each');
SELECT pg_temp.register('many', NULL, 'hooks.pad', 2100);
SELECT is((SELECT cardinality(whisperer.deliver_event('{"n": 1}', 'many'))), 2100, 'one event for 2,100 subscriptions');
SELECT is((SELECT ARRAY[count(*), count(DISTINCT event_uuid), count(DISTINCT body::jsonb #> '{event,uuid}')] FROM whisperer.delivery WHERE event_type = 'many'),
    ARRAY[2100, 1, 2100]::bigint[], 'is one payload, and 2,100 bodies');

SELECT * FROM finish();
ROLLBACK;
