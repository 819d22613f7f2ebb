-- What retry, retry_failed, cancel, wait_until_settled and prune say to arguments that they cannot take.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET intervalstyle = postgres;
CREATE EXTENSION IF NOT EXISTS whisperer;

-- Runs a statement and shows the error it raised, or its result.
CREATE FUNCTION pg_temp.says(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text; state text; message text; detail text; hint text;
BEGIN
    EXECUTE statement INTO result;
    RETURN pg_catalog.format('no error: %s', result);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT;
    RETURN pg_catalog.concat_ws(E'\n    ', state || ' ' || message, nullif('detail: ' || detail, 'detail: '),
                                nullif('hint: ' || hint, 'hint: '));
END $$;

-- A subscription that is active, two paused ones, one that has ended; nothing of this is ever committed.
BEGIN;
INSERT INTO whisperer.subscription (id, owner_oid, owner_name, owner_system, event_type, target_url, is_active,
                                    inactive_reason, ended_date)
SELECT s.id, oid, rolname, (SELECT system_identifier FROM pg_control_system()), 'manage-' || s.id, 'http://receiver.test/',
       s.id = 9001, CASE s.id WHEN 9002 THEN 'status 410' END, CASE s.id WHEN 9004 THEN now() END
FROM pg_roles, (VALUES (9001), (9002), (9003), (9004)) AS s (id) WHERE rolname = current_user;
INSERT INTO whisperer.delivery (uuid, subscription_id, xid, event_type, payload) VALUES
    ('00000000-0000-0000-0000-000000000001', 9001, pg_current_xact_id(), 'manage-9001', '{}'),
    ('00000000-0000-0000-0000-000000000002', 9002, pg_current_xact_id(), 'manage-9002', '{}'),
    ('00000000-0000-0000-0000-000000000003', 9003, pg_current_xact_id(), 'manage-9003', '{}');
INSERT INTO whisperer.history (uuid, subscription_id, state, attempts, event_type, payload, error, request_datetimes,
                               created_date, modified_date) VALUES
    ('00000000-0000-0000-0000-000000000011', 9001, 'delivered', 1, 'manage-9001', '{}', NULL, '{}', now(), now()),
    ('00000000-0000-0000-0000-000000000012', 9001, 'failed', 18, 'manage-9001', '{}', 'status 500', '{}', now(), now()),
    ('00000000-0000-0000-0000-000000000013', 9001, 'cancelled', 0, 'manage-9001', '{}', NULL, '{}', now(), now()),
    ('00000000-0000-0000-0000-000000000014', 9001, 'failed', 0, 'manage-9001', NULL, 'no such column', '{}', now(), now()),
    ('00000000-0000-0000-0000-000000000015', 9002, 'failed', 1, 'manage-9002', '{}', 'status 410', '{}', now(), now()),
    ('00000000-0000-0000-0000-000000000016', 9004, 'cancelled', 1, 'manage-9004', '{}', NULL, '{}', now(), now());
\pset format unaligned
\pset tuples_only on

-- retry
SELECT pg_temp.says('SELECT whisperer.retry(NULL)');
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000001', NULL)$$);
SELECT pg_temp.says($$SELECT whisperer.retry('nonsense')$$);
SELECT pg_temp.says($$SELECT whisperer.retry('ffffffff-0000-0000-0000-000000000000')$$);
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000011')$$);
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000002')$$);
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000003')$$);
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000015')$$);
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000016')$$);
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000014')$$);
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000014', force => true)$$);

-- retry_failed
SELECT pg_temp.says('SELECT whisperer.retry_failed(9999)');
SELECT pg_temp.says('SELECT whisperer.retry_failed(-1)');
SELECT pg_temp.says($$SELECT whisperer.retry_failed(NULL, '2026-02-01 00:00+00', '2026-01-01 00:00+00')$$);
SELECT pg_temp.says($$SELECT whisperer.retry_failed(9001, 'infinity', '-infinity')$$);
-- Nothing to do is no error: no failed ones in the range, an inactive subscription.
SELECT pg_temp.says($$SELECT whisperer.retry_failed(9001, '-infinity', '2000-01-01')$$);
SELECT pg_temp.says('SELECT whisperer.retry_failed(9002)');

-- cancel
SELECT pg_temp.says('SELECT whisperer.cancel(NULL)');
SELECT pg_temp.says($$SELECT whisperer.cancel('ffffffff-0000-0000-0000-000000000000')$$);
SELECT pg_temp.says($$SELECT whisperer.cancel('00000000-0000-0000-0000-000000000011')$$);
SELECT pg_temp.says($$SELECT whisperer.cancel('00000000-0000-0000-0000-000000000012')$$);
SELECT pg_temp.says($$SELECT whisperer.cancel('00000000-0000-0000-0000-000000000013')$$);

-- wait_until_settled
SELECT pg_temp.says('SELECT whisperer.wait_until_settled(NULL)');
SELECT pg_temp.says($$SELECT whisperer.wait_until_settled('-1 s')$$);
SELECT pg_temp.says($$SELECT whisperer.wait_until_settled('1 day -25 hours')$$);
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.says($$SELECT whisperer.wait_until_settled('0 s')$$);

-- prune
SELECT pg_temp.says('SELECT whisperer.prune(NULL)');
SELECT pg_temp.says($$SELECT whisperer.prune('0 s')$$);
SELECT pg_temp.says($$SELECT whisperer.prune('-12 weeks')$$);
SELECT pg_temp.says($$SELECT whisperer.prune('12 weeks', NULL)$$);
SELECT pg_temp.says($$SELECT whisperer.prune('12 weeks', 0)$$);
SELECT pg_temp.says($$SELECT whisperer.prune('12 weeks', -5)$$);
SELECT pg_temp.says($$SELECT whisperer.prune('178000000 years')$$);
ROLLBACK;

-- A transaction that only reads.
BEGIN READ ONLY;
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.says('SELECT whisperer.retry_failed()');
SELECT pg_temp.says($$SELECT whisperer.cancel('00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.says('SELECT whisperer.prune()');
SELECT pg_temp.says($$SELECT whisperer.subscribe('manage', 'http://127.0.0.1:1/read-only')$$);
SELECT pg_temp.says($$SELECT whisperer.update_subscription(1, '{}')$$);
SELECT pg_temp.says($$SELECT whisperer.unsubscribe(1)$$);
SELECT pg_temp.says($$SELECT whisperer.update_event_type('manage', '{}')$$);
SELECT pg_temp.says($$SELECT whisperer.unregister_event_type('manage')$$);
SELECT pg_temp.says($$SELECT whisperer.register_countdown('read-only', 'absent')$$);
SELECT pg_temp.says($$SELECT whisperer.unregister_countdown('read-only')$$);
SELECT pg_temp.says($$SELECT whisperer.resume()$$);
SELECT pg_temp.says($$SELECT whisperer.reset_statistics()$$);
ROLLBACK;

-- A role without access: refused by its missing EXECUTE, and again by the function itself.
CREATE ROLE regress_whisperer_manage;
SET ROLE regress_whisperer_manage;
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.says('SELECT count(*) FROM whisperer.webhook_events');
RESET ROLE;
BEGIN;
GRANT USAGE ON SCHEMA whisperer TO regress_whisperer_manage;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA whisperer TO regress_whisperer_manage;
SET LOCAL ROLE regress_whisperer_manage;
SELECT pg_temp.says($$SELECT whisperer.retry('00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.says('SELECT whisperer.retry_failed()');
SELECT pg_temp.says($$SELECT whisperer.cancel('00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.says('SELECT whisperer.wait_until_settled()');
SELECT pg_temp.says('SELECT whisperer.prune()');
SELECT pg_temp.says('SELECT count(*) FROM whisperer.webhook_events');
ROLLBACK;
DROP ROLE regress_whisperer_manage;
