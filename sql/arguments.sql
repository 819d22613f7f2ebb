-- Every argument of the functions about event types, subscriptions, triggers and countdowns, NULL and wrong: SQLSTATE,
-- the offending value, and a hint.
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS whisperer CASCADE;
CREATE EXTENSION whisperer;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only on

-- What a command raises; "no error" if nothing. What it did is undone.
CREATE FUNCTION pg_temp.error_of(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text;
BEGIN
    EXECUTE command;
    RAISE SQLSTATE 'ZZZZZ';
EXCEPTION WHEN SQLSTATE 'ZZZZZ' THEN
    RETURN '    no error';
WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT;
    RETURN format('    %s %s', state, message) || CASE WHEN detail <> '' THEN E'\n      detail: ' || detail ELSE '' END
        || CASE WHEN hint <> '' THEN E'\n      hint: ' || hint ELSE '' END;
END $$;

CREATE SCHEMA hooks;
CREATE FUNCTION hooks.good_callback(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION hooks.short_callback(jsonb, text) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE hooks.procedure(jsonb, text, jsonb, jsonb) LANGUAGE sql AS '';
CREATE FUNCTION hooks.set_callback(jsonb, text, jsonb, jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE hooks.package (id int PRIMARY KEY, name text, price numeric);
CREATE FUNCTION hooks.serializer(hooks.package) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb($1)';
CREATE FUNCTION hooks.serializer(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION hooks.one_serializer(hooks.package) RETURNS json LANGUAGE sql AS 'SELECT to_json($1)';
CREATE FUNCTION hooks.text_serializer(hooks.package) RETURNS text LANGUAGE sql AS 'SELECT 1::text';
CREATE FUNCTION hooks.customizer(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION hooks.json_customizer(json) RETURNS json LANGUAGE sql AS 'SELECT $1';
CREATE VIEW hooks.package_view AS SELECT * FROM hooks.package;
CREATE SEQUENCE hooks.numbers;
CREATE MATERIALIZED VIEW hooks.package_copy AS SELECT * FROM hooks.package;

SELECT whisperer.register_event_type('package-created');
SELECT whisperer.subscribe('package-created', 'https://example.com/hook');

\echo ==== register_event_type
SELECT command || E'\n' || pg_temp.error_of(command) FROM (VALUES
    ($q$SELECT whisperer.register_event_type(NULL)$q$),
    ($q$SELECT whisperer.register_event_type('')$q$),
    ($q$SELECT whisperer.register_event_type(repeat('é', 125))$q$),
    ($q$SELECT whisperer.register_event_type(E'a\nb')$q$),
    ($q$SELECT whisperer.register_event_type(U&'a\0085b')$q$),
    ($q$SELECT whisperer.register_event_type('package-created')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'nothing')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.nothing')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'nowhere.nothing')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks..serializer')$q$),
    ($q$SELECT whisperer.register_event_type('x', '')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.serializer')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.serializer(hooks.package)')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.serializer(jsonb)')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.serializer(text)')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.serializer(no_such_type)')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.serializer(')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.serializer()')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.serializer(jsonb) and more')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.one_serializer')$q$),
    ($q$SELECT whisperer.register_event_type('x', 'hooks.text_serializer')$q$),
    ($q$SELECT whisperer.register_event_type('x', NULL, 'hooks.customizer')$q$),
    ($q$SELECT whisperer.register_event_type('x', NULL, 'hooks.json_customizer')$q$)
) v (command);

\echo ==== update_event_type
SELECT command || E'\n' || pg_temp.error_of(command) FROM (VALUES
    ($q$SELECT whisperer.update_event_type(NULL, '{}')$q$),
    ($q$SELECT whisperer.update_event_type('package-created', NULL)$q$),
    ($q$SELECT whisperer.update_event_type('', '{}')$q$),
    ($q$SELECT whisperer.update_event_type('nothing', '{}')$q$),
    ($q$SELECT whisperer.update_event_type('package-created', '[]')$q$),
    ($q$SELECT whisperer.update_event_type('package-created', '"text"')$q$),
    ($q$SELECT whisperer.update_event_type('package-created', '{"event_type": "other"}')$q$),
    ($q$SELECT whisperer.update_event_type('package-created', '{"description": 1}')$q$),
    ($q$SELECT whisperer.update_event_type('package-created', '{"serializer": "hooks.nothing"}')$q$),
    ($q$SELECT whisperer.update_event_type('package-created', '{"customizer": "hooks.nothing"}')$q$),
    ($q$SELECT whisperer.update_event_type('package-created', '{"customizer": "hooks.customizer"}')$q$)
) v (command);

\echo ==== unregister_event_type
SELECT command || E'\n' || pg_temp.error_of(command) FROM (VALUES
    ($q$SELECT whisperer.unregister_event_type(NULL)$q$),
    ($q$SELECT whisperer.unregister_event_type('nothing')$q$),
    ($q$SELECT whisperer.unregister_event_type('package-created')$q$)
) v (command);

\echo ==== subscribe: event_type, target_url, secret_key, callback
SELECT command || E'\n' || pg_temp.error_of(command) FROM (VALUES
    ($q$SELECT whisperer.subscribe(NULL, 'https://example.com/')$q$),
    ($q$SELECT whisperer.subscribe('nothing', 'https://example.com/')$q$),
    ($q$SELECT whisperer.subscribe('package-created', NULL)$q$),
    ($q$SELECT whisperer.subscribe('package-created', '')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'example.com/hook')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'ftp://example.com/hook')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'file:///etc/passwd')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https:///hook')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://user:s3cret@example.com/hook')$q$),
    ($q$SELECT whisperer.subscribe('package-created', E'https://example.com/\nhook')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/ hook')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com:99999/hook')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/' || repeat('x', 2048))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/hook')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', secret_key => '')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', secret_key => 'whsec_')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', secret_key => 'whsec_s3cret!')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', callback => 'nothing')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', callback => 'hooks.short_callback')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', callback => 'hooks.procedure')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', callback => 'hooks.set_callback')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', callback => 'hooks.good_callback')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', callback => 'hooks.good_callback(jsonb,text,jsonb,jsonb)')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', callback => 'hooks.good_callback(jsonb,text)')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'https://example.com/2', callback => 'hooks.good_callback(jsonb,text,jsonb,jsonb,jsonb)')$q$)
) v (command);

\echo ==== subscribe: retry_countdown_config
SELECT config || E'\n' || pg_temp.error_of(format($q$SELECT whisperer.subscribe('package-created',
    'https://example.com/2', retry_countdown_config => %L)$q$, config)) FROM (VALUES
    ('[]'), ('"fixed"'), ('1'), ('null'), ('{}'), ('{"choice": 1}'), ('{"choice": null}'), ('{"choice": "never"}'),
    ('{"choice": "fixed"}'), ('{"choice": "fixed", "kwargs": 5}'), ('{"choice": "fixed", "kwargs": {}}'),
    ('{"choice": "fixed", "args": {}, "kwargs": {"seconds": 1}}'),
    ('{"choice": "fixed", "kwargs": {"seconds": "5"}}'), ('{"choice": "fixed", "kwargs": {"seconds": -1}}'),
    ('{"choice": "fixed", "kwargs": {"seconds": 1e400}}'), ('{"choice": "fixed", "kwargs": {"seconds": 5, "x": 1}}'),
    ('{"choice": "fixed", "kwargs": {"seconds": 5, "jitter": 1.5}}'),
    ('{"choice": "linear", "kwargs": {"base": null}}'), ('{"choice": "linear", "kwargs": {"base": 1, "limit": -5}}'),
    ('{"choice": "exponential", "kwargs": {"factor": 2}}'), ('{"choice": "exponential", "kwargs": {"base": 2, "factor": 0.5}}'),
    ('{"choice": "random", "kwargs": {"min_value": 5, "max_value": 5}}'), ('{"choice": "random", "kwargs": {"min_value": 5}}'),
    ('{"choice": "schedule", "kwargs": {"seconds": []}}'), ('{"choice": "schedule", "kwargs": {"seconds": [1, "2"]}}'),
    ('{"choice": "schedule", "kwargs": {"seconds": [1, [2]]}}'), ('{"choice": "schedule", "kwargs": {"seconds": [1, -2]}}')
) v (config);

\echo ==== subscribe: additional_headers
SELECT coalesce(headers, 'NULL') || E'\n' || pg_temp.error_of(format($q$SELECT whisperer.subscribe('package-created',
    'https://example.com/2', additional_headers => %L)$q$, headers)) FROM (VALUES
    (NULL), ('[]'), ('"x"'), ('{"X-A": 1}'), ('{"X-A": null}'), ('{"X-A": {"b": "c"}}'), ('{"X A": "b"}'), ('{"": "b"}'),
    ('{":path": "/"}'), ('{"X-A": "a\r\nX-B: b"}'), ('{"X-A": "tab\tin"}'), ('{"X-A": "1", "x-a": "2"}'),
    ('{"Host": "other"}'), ('{"content-length": "5"}'), ('{"Transfer-Encoding": "chunked"}'), ('{"Connection": "close"}'),
    ('{"Keep-Alive": "x"}'), ('{"Upgrade": "x"}'), ('{"TE": "x"}'), ('{"Trailer": "x"}'), ('{"Expect": "x"}'),
    ('{"Accept-Encoding": "gzip"}'), ('{"Cookie": "x"}'), ('{"Proxy-Authorization": "x"}'), ('{"HTTP2-Settings": "x"}'),
    ('{"X-Whisperer-Signature": "sha256=0"}'), ('{"x-whisperer-event": "x"}'), ('{"webhook-id": "x"}'),
    ('{"webhook-timestamp": "x"}'), ('{"Webhook-Signature": "x"}')
) v (headers);
SELECT 'too much of it' || E'\n' || pg_temp.error_of(format($q$SELECT whisperer.subscribe('package-created',
    'https://example.com/2', additional_headers => %L)$q$, jsonb_build_object('X-A', repeat('x', 8190))));

\echo ==== subscribe: config
SELECT coalesce(config, 'NULL') || E'\n' || pg_temp.error_of(format($q$SELECT whisperer.subscribe('package-created',
    'https://example.com/2', config => %L)$q$, config)) FROM (VALUES
    (NULL), ('[]'), ('null'), ('{"auth": "basic"}'), ('{"auth": {}}'), ('{"auth": {"auth_type": 1}}'),
    ('{"auth": {"auth_type": "digest", "password": "s3cret"}}'),
    ('{"auth": {"auth_type": "basic", "username": "me"}}'),
    ('{"auth": {"auth_type": "basic", "username": "m:e", "password": "s3cret"}}'),
    ('{"auth": {"auth_type": "basic", "username": "me", "password": 53}}'),
    ('{"auth": {"auth_type": "basic", "username": "me", "password": "s3\ncret"}}'),
    ('{"auth": {"auth_type": "basic", "username": "me", "password": "s3cret", "realm": "x"}}'),
    ('{"auth": {"auth_type": "bearer"}}'), ('{"auth": {"auth_type": "bearer", "token": ""}}'),
    ('{"auth": {"auth_type": "bearer", "token": "s3 cret"}}'), ('{"auth": {"auth_type": "bearer", "token": null}}'),
    ('{"auth": {"auth_type": "token", "username": "me", "password": "s3cret"}}'),
    ('{"auth": {"auth_type": "token", "url": "ftp://example.com/", "username": "me", "password": "s3cret"}}'),
    ('{"auth": {"auth_type": "token", "url": "https://me:s3cret@example.com/", "username": "me", "password": "s3cret"}}'),
    ('{"auth": {"auth_type": "token", "url": "https://example.com/", "username": "me", "password": "s3cret", "header_format": "Token"}}'),
    ('{"auth": {"auth_type": "token", "url": "https://example.com/", "username": "me", "password": "s3cret", "token_key": ""}}'),
    ('{"request_timeout": "soon"}'), ('{"request_timeout": 0}'), ('{"request_timeout": -1}'), ('{"request_timeout": 1e400}'),
    ('{"request_timeout": [5]}'), ('{"request_timeout": [5, "10"]}'), ('{"request_timeout": null}'), ('{"request_timeout": {}}'),
    ('{"max_attempts": 0}'), ('{"max_attempts": 1001}'), ('{"max_attempts": 1.5}'), ('{"max_attempts": "5"}'),
    ('{"max_attempts": null}'), ('{"max_in_flight": 0}'), ('{"max_in_flight": true}'), ('{"max_in_flight": 1e300}')
) v (config);

\echo ==== subscribe(jsonb)
SELECT coalesce(body, 'NULL') || E'\n' || pg_temp.error_of(format('SELECT whisperer.subscribe(%L::jsonb)', body)) FROM (VALUES
    (NULL), ('[]'), ('"text"'), ('5'), ('null'), ('{}'), ('{"event_type": "package-created"}'),
    ('{"target_url": "https://example.com/2"}'),
    ('{"event_type": null, "target_url": "https://example.com/2"}'),
    ('{"event_type": "package-created", "target_url": 5}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/2", "secret": "s3cret"}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/2", "is_active": true}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/2", "secret_key": ["s3cret"]}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/2", "secret_key": "whsec_s3cret!"}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/2", "callback": 5}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/2", "retry_countdown_config": "fixed"}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/2", "additional_headers": null}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/2", "config": null}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/2", "config": [1]}'),
    ('{"event_type": "package-created", "target_url": "https://example.com/hook"}')
) v (body);

\echo ==== update_subscription, unsubscribe
SELECT command || E'\n' || pg_temp.error_of(command) FROM (VALUES
    ($q$SELECT whisperer.update_subscription(NULL, '{}')$q$),
    ($q$SELECT whisperer.update_subscription(1, NULL)$q$),
    ($q$SELECT whisperer.update_subscription(99, '{}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '[]')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"owner": "me"}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"event_type": null}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"event_type": "nothing"}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"target_url": null}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"target_url": "gopher://example.com/"}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"secret_key": 5}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"callback": "nothing"}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"retry_countdown_config": {"choice": "never"}}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"additional_headers": {"Host": "x"}}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"additional_headers": null}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"config": null}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"config": {"max_attempts": 0}}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"is_active": null}')$q$),
    ($q$SELECT whisperer.update_subscription(1, '{"is_active": "yes"}')$q$),
    ($q$SELECT whisperer.unsubscribe(NULL)$q$),
    ($q$SELECT whisperer.unsubscribe(99)$q$),
    ($q$SELECT whisperer.unsubscribe(-1)$q$)
) v (command);

\echo ==== attach, detach
SELECT command || E'\n' || pg_temp.error_of(command) FROM (VALUES
    ($q$SELECT whisperer.attach(NULL, 'package-created')$q$),
    ($q$SELECT whisperer.attach('hooks.nothing', 'package-created')$q$),
    ($q$SELECT whisperer.attach(99::regclass, 'package-created')$q$),
    ($q$SELECT whisperer.attach('hooks.package_view', 'package-created')$q$),
    ($q$SELECT whisperer.attach('hooks.package_copy', 'package-created')$q$),
    ($q$SELECT whisperer.attach('hooks.numbers', 'package-created')$q$),
    ($q$SELECT whisperer.attach('hooks.package_pkey', 'package-created')$q$),
    ($q$SELECT whisperer.attach('whisperer.delivery', 'package-created')$q$),
    ($q$SELECT whisperer.attach('pg_catalog.pg_class', 'package-created')$q$),
    ($q$SELECT whisperer.attach('hooks.package', NULL)$q$),
    ($q$SELECT whisperer.attach('hooks.package', '')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', NULL)$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', '')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', 'TRUNCATE')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', 'INSERT OR')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', 'INSERT UPDATE')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', 'INSERT OR INSERT')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', 'UPDATE OF price')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => '')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'NEW.price >')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'true) EXECUTE FUNCTION evil(')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'true) OR (false')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'true, false')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'true; DROP TABLE hooks.package')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'true FROM hooks.package')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'true /* open')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'true AS label')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'NEW.colour = 1')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => 'OLD.price = 1')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => '(SELECT true)')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', 'INSERT', columns => '{price}')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', 'UPDATE', columns => '{}')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', 'UPDATE', columns => '{price,NULL}')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', 'UPDATE', columns => '{colour}')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', config_filter => '[]')$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', config_filter => '{"auth": {}}')$q$),
    ($q$SELECT whisperer.detach(NULL, 'package-created')$q$),
    ($q$SELECT whisperer.detach('hooks.package', NULL)$q$),
    ($q$SELECT whisperer.detach('hooks.package', 'package-created')$q$),
    ($q$SELECT whisperer.detach('hooks.package_view', 'package-created')$q$),
    ($q$SELECT whisperer.detach('hooks.package', 'nothing')$q$)
) v (command);

\echo ==== countdown_preview
SELECT command || E'\n' || pg_temp.error_of(command) FROM (VALUES
    ($q$SELECT * FROM whisperer.countdown_preview('[]')$q$),
    ($q$SELECT * FROM whisperer.countdown_preview('{"choice": "never"}')$q$),
    ($q$SELECT * FROM whisperer.countdown_preview(NULL, NULL)$q$),
    ($q$SELECT * FROM whisperer.countdown_preview(NULL, 0)$q$),
    ($q$SELECT * FROM whisperer.countdown_preview(NULL, 1001)$q$)
) v (command);

\echo ==== sizes, and long values in messages
SELECT command || E'\n' || pg_temp.error_of(command) FROM (VALUES
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', config => '{"request_timeout": 1e400}')$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', config => '{"auth": {"auth_type": "token", "url": "http://u:p@a/", "username": "u", "password": "p"}}')$q$),
    ($q$SELECT whisperer.register_event_type('x', description => repeat('x', 65536))$q$),
    ($q$SELECT whisperer.register_event_type('x', description => repeat('x', 65537))$q$),
    ($q$SELECT whisperer.update_event_type('package-created', jsonb_build_object('description', repeat('x', 65537)))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', secret_key => repeat('x', 65536))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', secret_key => repeat('x', 65537))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', config => jsonb_build_object('x', repeat('x', 1000000)))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', config => jsonb_build_object('x', repeat('x', 1048577)))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', config => jsonb_build_object('auth', jsonb_build_object('auth_type', 'bearer', 'token', repeat('x', 8192))))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', config => jsonb_build_object('auth', jsonb_build_object('auth_type', 'bearer', 'token', repeat('x', 8193))))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', config => jsonb_build_object('auth', jsonb_build_object('auth_type', 'basic', 'username', repeat('x', 2000000), 'password', '')))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', config => jsonb_build_object('auth', jsonb_build_object('auth_type', 'basic', 'username', 'x', 'password', repeat('x', 8193))))$q$)
) v (command);
CREATE FUNCTION pg_temp.length_of_error(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    error text := pg_temp.error_of(command);
BEGIN
    RETURN substr(error, 5, 5) || CASE WHEN length(error) < 2500 THEN ' is short' ELSE ' has ' || length(error) || ' characters' END;
END $$;
SELECT command || ' ' || pg_temp.length_of_error(command) FROM (VALUES
    ($q$SELECT whisperer.register_event_type('x', repeat('x', 100000))$q$),
    ($q$SELECT whisperer.register_event_type('x', repeat('x', 100000) || '(')$q$),
    ($q$SELECT whisperer.register_event_type('x', customizer => repeat('x', 100000))$q$),
    ($q$SELECT whisperer.register_event_type(repeat('x', 100000))$q$),
    ($q$SELECT whisperer.subscribe('package-created', 'http://a/', callback => repeat('é', 100000))$q$),
    ($q$SELECT whisperer.subscribe(repeat('x', 100000), 'http://a/')$q$),
    ($q$SELECT whisperer.subscribe(jsonb_build_object(repeat('x', 100000), 1))$q$),
    ($q$SELECT whisperer.deliver_event('{}', repeat('x', 100000))$q$),
    ($q$SELECT whisperer.register_countdown(repeat('x', 100000), 'f')$q$),
    ($q$SELECT whisperer.register_countdown('x', repeat('x', 100000))$q$),
    ($q$SELECT whisperer.unregister_countdown(repeat('x', 100000))$q$),
    ($q$SELECT whisperer.countdown_preview(jsonb_build_object('choice', repeat('x', 100000)))$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', operation => repeat('x', 100000))$q$),
    ($q$SELECT whisperer.attach('hooks.package', 'package-created', condition => repeat('x ', 100000))$q$),
    ($q$SELECT whisperer.detach('hooks.package', repeat('x', 100000))$q$),
    ($q$SELECT whisperer.grant_access('pg_monitor', repeat('x', 100000))$q$),
    ($q$SELECT whisperer.reassign(repeat('x', 100000), 'pg_monitor')$q$)
) v (command);

\echo ==== nothing of this changed anything
SELECT id, event_type, target_url FROM whisperer.subscriptions;
SELECT event_type FROM whisperer.event_types;
SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid::regclass::text NOT LIKE 'whisperer.%';
SELECT count(*) FROM whisperer.subscription_secret;

\echo ==== domains are what they are over
CREATE DOMAIN hooks.seconds AS int CHECK (VALUE >= 0);
CREATE DOMAIN hooks.pause AS hooks.seconds;
CREATE DOMAIN hooks.object AS jsonb;
CREATE FUNCTION hooks.pause(integer, jsonb) RETURNS hooks.pause LANGUAGE sql AS 'SELECT $1 * 10';
CREATE FUNCTION hooks.accept(jsonb) RETURNS hooks.object LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION hooks.object_serializer(hooks.package) RETURNS hooks.object LANGUAGE sql AS $$SELECT '{"made": 1}'::jsonb$$;
SELECT whisperer.register_countdown('domain', 'hooks.pause', 'hooks.accept');
SELECT seconds FROM whisperer.countdown_preview('{"choice": "domain"}', 2);
SELECT whisperer.register_event_type('domain', 'hooks.object_serializer', 'hooks.accept');
SELECT whisperer.subscribe('domain', 'http://127.0.0.1:1/') > 0;
SELECT whisperer.deliver_event(ROW(1, 'a', 2)::hooks.package, 'domain') IS NOT NULL;
SELECT request_payload -> 'payload' FROM whisperer.webhook_events WHERE event_type = 'domain';

SET client_min_messages = warning;
DROP SCHEMA hooks CASCADE;
DROP EXTENSION whisperer;
