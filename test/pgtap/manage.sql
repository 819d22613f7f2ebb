-- retry (parity row 38), retry_failed, cancel, prune (parity row 37): what they do to the tables, in one transaction that no worker ever sees.
BEGIN;
SELECT plan(53);

CREATE FUNCTION pg_temp.u(integer) RETURNS uuid LANGUAGE sql AS
    $$ SELECT (lpad($1::text, 8, '0') || '-0000-0000-0000-000000000000')::uuid $$;
CREATE FUNCTION pg_temp.state(integer) RETURNS text LANGUAGE sql AS
    $$ SELECT state FROM whisperer.webhook_events WHERE uuid = pg_temp.u($1) $$;

INSERT INTO whisperer.subscription (id, owner_oid, owner_name, owner_system, event_type, target_url, is_active, ended_date)
SELECT s.id, oid, rolname, (SELECT system_identifier FROM pg_control_system()), 'manage', 'http://receiver.test/' || s.id,
       s.id NOT IN (9002, 9003), CASE s.id WHEN 9003 THEN now() END
FROM pg_roles, generate_series(9001, 9005) AS s (id) WHERE rolname = current_user;

INSERT INTO whisperer.event (uuid, payload) VALUES (pg_temp.u(901), '{"shared": true}'), (pg_temp.u(902), '{"kept": true}');

INSERT INTO whisperer.delivery (uuid, subscription_id, xid, due, not_before, attempts, event_type, payload, error,
                                response_http_status, request_datetimes, created_date, modified_date)
SELECT pg_temp.u(i), 9001, '3', '2100-01-01', '2100-01-01', 4, 'manage', '{"i": 1}', 'status 503', 503,
       ARRAY['2020-01-04'::timestamptz, '2020-01-03'], '2020-01-01', '2020-01-04'
FROM generate_series(1, 5) AS i;

CREATE TEMP TABLE settled AS
SELECT * FROM (VALUES
    (11, 9001, 'delivered', '2020-01-01'::timestamptz), (12, 9001, 'failed', '2020-01-02'), (13, 9001, 'cancelled', '2020-01-03'),
    (21, 9001, 'failed', '2020-02-01'), (22, 9001, 'failed', '2020-02-02'), (23, 9001, 'failed', '2020-02-03'),
    (24, 9004, 'failed', '2020-02-02'), (25, 9002, 'failed', '2020-02-02'), (26, 9003, 'failed', '2020-02-02'),
    (27, 9004, 'delivered', '2020-02-02'), (28, 9004, 'cancelled', '2020-02-02'), (29, 9004, 'failed', '2020-02-09')
) AS s (number, subscription_id, state, modified_date);
INSERT INTO whisperer.history (uuid, subscription_id, state, attempts, event_type, payload, error, response_http_status,
                               response_content, response_time, request_datetimes, relation_schema, relation_name,
                               created_date, modified_date)
SELECT pg_temp.u(number), subscription_id, state, 18, 'manage', '{"i": 2}', 'status 500', 500, 'oh no', '2 s',
       ARRAY['2019-12-31'::timestamptz], 'pg_catalog', 'pg_class', '2019-12-30', modified_date
FROM settled;

-- ---- cancel
SELECT lives_ok($$SELECT whisperer.cancel(pg_temp.u(1))$$, 'cancel a pending delivery');
SELECT is(pg_temp.state(1), 'cancelled', '... it is cancelled');
SELECT is((SELECT count(*) FROM whisperer.delivery WHERE uuid = pg_temp.u(1)), 0::bigint, '... and not pending');
SELECT row_eq(
    $$SELECT attempts, event_type, payload, error, response_http_status, request_datetimes, created_date, modified_date
      FROM whisperer.history WHERE uuid = pg_temp.u(1)$$,
    ROW (4, 'manage'::text, '{"i": 1}'::text, 'status 503'::text, 503,
         ARRAY['2020-01-04'::timestamptz, '2020-01-03'], '2020-01-01'::timestamptz, now()),
    '... with its past, settled now');
SELECT lives_ok($$SELECT whisperer.cancel(pg_temp.u(1))$$, 'cancel again: nothing');
SELECT is(pg_temp.state(1), 'cancelled', '... still cancelled');
SELECT throws_ok($$SELECT whisperer.cancel(pg_temp.u(11))$$, 'WH005', NULL, 'cancel a delivered one');
SELECT throws_ok($$SELECT whisperer.cancel(pg_temp.u(12))$$, '55000', NULL, 'cancel a failed one');
SELECT throws_ok($$SELECT whisperer.cancel(pg_temp.u(999))$$, 'WH003', NULL, 'cancel an unknown one');

-- ---- retry: at the time of the call, not of the transaction's start
CREATE FUNCTION pg_temp.just_now(t timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT t > now() AND t <= clock_timestamp()';
SELECT lives_ok($$SELECT whisperer.retry(pg_temp.u(2))$$, 'retry a pending one');
SELECT row_eq(
    $$SELECT due, not_before, xid, attempts, error, pg_temp.just_now(modified_date) FROM whisperer.delivery WHERE uuid = pg_temp.u(2)$$,
    ROW (NULL::timestamptz, NULL::timestamptz, pg_current_xact_id(), 4, 'status 503'::text, true),
    '... due now, found by its transaction, its past kept');
SELECT ok((SELECT pg_temp.just_now(next_attempt_at) FROM whisperer.webhook_events WHERE uuid = pg_temp.u(2)), '... and shown so');
SELECT lives_ok($$SELECT whisperer.retry(pg_temp.u(12))$$, 'retry a failed one');
SELECT is((SELECT count(*) FROM whisperer.history WHERE uuid = pg_temp.u(12)), 0::bigint, '... which leaves the history');
SELECT row_eq(
    $$SELECT due, not_before, xid, attempts, event_type, payload, error, response_http_status, response_content,
             response_time, request_datetimes, relation_schema, relation_name, created_date, pg_temp.just_now(modified_date)
      FROM whisperer.delivery WHERE uuid = pg_temp.u(12)$$,
    ROW (NULL::timestamptz, NULL::timestamptz, pg_current_xact_id(), 18, 'manage'::text, '{"i": 2}'::text, 'status 500'::text,
         500, 'oh no'::text, '2 s'::interval, ARRAY['2019-12-31'::timestamptz], 'pg_catalog'::text, 'pg_class'::text,
         '2019-12-30'::timestamptz, true),
    '... with attempts, last response and times kept');
SELECT lives_ok($$SELECT whisperer.retry(pg_temp.u(13))$$, 'retry a cancelled one');
SELECT is(pg_temp.state(13), 'pending', '... pending again');
SELECT lives_ok($$SELECT whisperer.cancel(pg_temp.u(13))$$, '... and cancelled again');
SELECT is(pg_temp.state(13), 'cancelled', '... it is');
SELECT throws_ok($$SELECT whisperer.retry(pg_temp.u(11))$$, 'WH005', NULL, 'retry a delivered one');
SELECT is(pg_temp.state(11), 'delivered', '... which stays so');
SELECT lives_ok($$SELECT whisperer.retry(pg_temp.u(11), force => true)$$, 'retry it with force');
SELECT is(pg_temp.state(11), 'pending', '... pending, under the same uuid');
SELECT throws_ok($$SELECT whisperer.retry(pg_temp.u(25))$$, '55000', NULL, 'retry for a paused subscription');
SELECT throws_ok($$SELECT whisperer.retry(pg_temp.u(26))$$, '55000', NULL, 'retry for an ended subscription');
SELECT is(pg_temp.state(25), 'failed', '... still failed');

-- ---- retry_failed
SELECT is(whisperer.retry_failed(9002), 0::bigint, 'retry_failed of a paused subscription: none');
SELECT is(whisperer.retry_failed(9003), 0::bigint, 'retry_failed of an ended subscription: none');
SELECT throws_ok('SELECT whisperer.retry_failed(99999)', 'WH001', NULL, 'retry_failed of an unknown subscription');
SELECT is(whisperer.retry_failed(9001, '2020-02-02', '2020-02-03'), 1::bigint, 'retry_failed from since (included) until (excluded)');
SELECT is(pg_temp.state(22), 'pending', '... the one in the range');
SELECT is(pg_temp.state(21), 'failed', '... not the one before');
SELECT is(pg_temp.state(23), 'failed', '... not the one at until');
SELECT is(pg_temp.state(24), 'failed', '... not another subscription''s');
SELECT is(whisperer.retry_failed(since => '2020-02-02', until => '2020-02-05'), 2::bigint, 'retry_failed of all subscriptions');
SELECT is(pg_temp.state(24), 'pending', '... of an active one');
SELECT is(pg_temp.state(25), 'failed', '... not of a paused one');
SELECT is(pg_temp.state(28), 'cancelled', '... only failed ones');
INSERT INTO whisperer.history (uuid, subscription_id, state, attempts, event_type, error, request_datetimes, created_date, modified_date)
VALUES (pg_temp.u(30), 9001, 'failed', 0, 'manage', 'no body was made', '{}', now(), now());
SELECT is(whisperer.retry_failed(), 2::bigint, 'retry_failed without arguments: all that are left and have a body');
SELECT is(pg_temp.state(30), 'failed', '... not the one without a body');
SELECT throws_ok($$SELECT whisperer.retry(pg_temp.u(30))$$, '55000', NULL, 'retry of one without a body');
SELECT throws_ok($$SELECT whisperer.wait_until_settled('0 s')$$, '55000', NULL, 'waiting for what is not committed');

-- ---- prune
DELETE FROM whisperer.history;
INSERT INTO whisperer.history (uuid, subscription_id, state, attempts, event_type, event_uuid, request_datetimes, created_date, modified_date)
SELECT pg_temp.u(100 + i), 9005, (ARRAY['delivered', 'failed', 'cancelled'])[1 + i % 3], 1, 'manage',
       CASE WHEN i <= 2 THEN pg_temp.u(901) WHEN i = 3 THEN pg_temp.u(902) END, '{}', '2020-01-01',
       now() - i * interval '1 day'
FROM generate_series(1, 10) AS i;
INSERT INTO whisperer.delivery (uuid, subscription_id, xid, event_type, event_uuid)
VALUES (pg_temp.u(120), 9005, pg_current_xact_id(), 'manage', pg_temp.u(902));
SELECT is(whisperer.prune('5 days 1 hour', 2), 2::bigint, 'prune at most so many');
SELECT is((SELECT min(modified_date) FROM whisperer.history), now() - interval '8 days', '... the oldest');
SELECT is(whisperer.prune('5 days 1 hour'), 3::bigint, 'prune the others of that age');
SELECT is((SELECT min(modified_date) FROM whisperer.history), now() - interval '5 days', '... no younger ones');
SELECT is(whisperer.prune('1 day 1 hour'), 4::bigint, 'prune all but the youngest');
SELECT results_eq('SELECT payload FROM whisperer.event ORDER BY uuid',
                  $$VALUES ('{"shared": true}'), ('{"kept": true}')$$,
                  '... payloads stay that a settled or a pending delivery has');
SELECT is((SELECT count(*) FROM whisperer.delivery WHERE uuid = pg_temp.u(120)), 1::bigint, '... what is pending stays');
SELECT is(whisperer.prune('1 hour'), 1::bigint, 'prune the last one of an event');
SELECT results_eq('SELECT payload FROM whisperer.event', $$VALUES ('{"kept": true}')$$, '... and its payload goes');
SELECT is(whisperer.prune('1 hour'), 0::bigint, 'prune when nothing is left');
SELECT is((SELECT count(*) FROM whisperer.history), 0::bigint, '... nothing is');

SELECT * FROM finish();
ROLLBACK;
