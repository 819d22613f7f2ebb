-- register_countdown, unregister_countdown, and subscribing to a custom countdown.
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS whisperer CASCADE;
CREATE EXTENSION whisperer;
RESET client_min_messages;
CREATE SCHEMA countdowns_test;
SET search_path = countdowns_test, public;

CREATE FUNCTION seconds(retry_count integer, kwargs jsonb) RETURNS integer LANGUAGE sql AS 'SELECT 5 * retry_count';
CREATE FUNCTION as_text(retry_count integer, kwargs jsonb) RETURNS text LANGUAGE sql AS 'SELECT ''5''';
CREATE FUNCTION one_argument(retry_count integer) RETURNS integer LANGUAGE sql AS 'SELECT 5';
CREATE FUNCTION accept(kwargs jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT kwargs || ''{"seen": true}''';
CREATE FUNCTION accept_null(kwargs jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION accept_array(kwargs jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT ''[]''::jsonb';
CREATE FUNCTION accept_text(kwargs jsonb) RETURNS text LANGUAGE sql AS 'SELECT ''''';

-- Arguments.
SELECT whisperer.register_countdown(NULL, 'seconds');
SELECT whisperer.register_countdown('', 'seconds');
SELECT whisperer.register_countdown(repeat('x', 125), 'seconds');
SELECT whisperer.register_countdown(E'a\nb', 'seconds');
SELECT whisperer.register_countdown('mine', NULL);
SELECT whisperer.register_countdown('mine', 'nowhere');
SELECT whisperer.register_countdown('mine', 'one_argument');
SELECT whisperer.register_countdown('mine', 'as_text');
SELECT whisperer.register_countdown('mine', 'seconds', 'nowhere');
SELECT whisperer.register_countdown('mine', 'seconds', 'accept_text');
SELECT whisperer.register_countdown('fixed', 'seconds');
SELECT whisperer.unregister_countdown(NULL);
SELECT whisperer.unregister_countdown('mine');
SELECT whisperer.unregister_countdown('fixed');

-- Registered, and taken.
SELECT whisperer.register_countdown('mine', 'seconds', 'accept');
SELECT whisperer.register_countdown('mine', 'seconds');
SELECT whisperer.register_countdown('null', 'seconds', 'accept_null');
SELECT whisperer.register_countdown('array', 'seconds', 'accept_array');
SELECT choice, owner = current_user AS mine, countdown, validator FROM whisperer.countdowns ORDER BY choice;

-- Previews.
SELECT * FROM whisperer.countdown_preview('{"choice": "mine", "kwargs": {}}', 3);
SELECT * FROM whisperer.countdown_preview('{"choice": "unknown"}', 3);
SELECT * FROM whisperer.countdown_preview('{"choice": "mine", "extra": 1}', 3);
SELECT * FROM whisperer.countdown_preview('{"choice": "mine", "kwargs": 1}', 3);
SELECT * FROM whisperer.countdown_preview('{"choice": "null"}', 3);

-- Subscriptions: what the validator returns is stored, also by an update.
SELECT whisperer.register_event_type('countdown-test');
SELECT whisperer.subscribe('countdown-test', 'https://receiver.test/', retry_countdown_config => '{"choice": "mine", "kwargs": {"a": 1}}') AS id \gset
SELECT retry_countdown_config FROM whisperer.subscriptions WHERE id = :id;
SELECT whisperer.subscribe('countdown-test', 'https://receiver.test/2', retry_countdown_config => '{"choice": "unknown"}');
SELECT whisperer.subscribe('countdown-test', 'https://receiver.test/2', retry_countdown_config => '{"choice": "null"}');
SELECT whisperer.subscribe('countdown-test', 'https://receiver.test/2', retry_countdown_config => '{"choice": "array"}');
SELECT whisperer.update_subscription(:id, '{"retry_countdown_config": {"choice": "array"}}');
SELECT whisperer.update_subscription(:id, '{"retry_countdown_config": {"choice": "mine", "kwargs": {"b": 2}}}');
SELECT retry_countdown_config FROM whisperer.subscriptions WHERE id = :id;
SELECT whisperer.update_subscription(99, '{"retry_countdown_config": {"choice": "mine"}}');

-- In use, and not any more.
SELECT whisperer.unregister_countdown('mine');
SELECT whisperer.update_subscription(:id, '{"retry_countdown_config": null}');
SELECT whisperer.unregister_countdown('mine');
SELECT choice FROM whisperer.countdowns ORDER BY choice;

-- Thirty days at most, whatever it returns; NULL and a negative are none.
CREATE FUNCTION endless(retry_count integer, kwargs jsonb) RETURNS float8 LANGUAGE sql AS
    'SELECT (ARRAY[1e300, ''infinity'', NULL, -1]::float8[])[retry_count]';
SELECT whisperer.register_countdown('endless', 'endless');
SELECT * FROM whisperer.countdown_preview('{"choice": "endless"}', 2);
SELECT * FROM whisperer.countdown_preview('{"choice": "endless"}', 3);
SELECT whisperer.unregister_countdown('endless');

SET client_min_messages = warning;
DROP SCHEMA countdowns_test CASCADE;
