-- webhook_events, pending, failed, subscription_health (parity rows 23, 39, 40): columns, what they show, and the plans that keep them fast.
BEGIN;
SELECT plan(40);

CREATE FUNCTION pg_temp.columns(view_name text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = ('whisperer.' || view_name)::regclass AND attnum > 0 AND NOT attisdropped $$;

-- ---- The shape
SELECT is(pg_temp.columns('webhook_events'),
    'uuid uuid, subscription_id bigint, event_type text, target_url text, state text, delivered boolean, retry_count integer,'
    ' request_payload jsonb, response_http_status integer, response_content text, response_time interval, error text,'
    ' request_datetimes timestamp with time zone[], next_attempt_at timestamp with time zone,'
    ' created_date timestamp with time zone, modified_date timestamp with time zone, relation regclass',
    'columns of webhook_events');
SELECT is(pg_temp.columns('pending'), pg_temp.columns('webhook_events'), 'columns of pending');
SELECT is(pg_temp.columns('failed'), pg_temp.columns('webhook_events'), 'columns of failed');
SELECT is(pg_temp.columns('subscription_health'),
    'subscription_id bigint, event_type text, target_url text, is_active boolean, pending bigint,'
    ' oldest_pending timestamp with time zone, in_flight integer, delivered_last_hour bigint, failed_last_hour bigint,'
    ' consecutive_failures integer, paused_until timestamp with time zone, last_status integer, last_error text',
    'columns of subscription_health');
SELECT is_empty($$
    SELECT c.oid::regclass FROM pg_class c
    WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind = 'v'
      AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)$$, 'every view looks with the rights of its reader');
SELECT is_empty($$
    SELECT c.oid::regclass, a.attname FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind = 'v'
      AND (obj_description(c.oid) IS NULL OR col_description(c.oid, a.attnum) IS NULL)$$, 'every view and column of one is described');
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = 'whisperer'::regnamespace AND obj_description(p.oid) IS NULL$$, 'every function is described');

-- ---- Nothing for everybody
SELECT is_empty($$
    SELECT c.oid::regclass FROM pg_class c, aclexplode(c.relacl) a
    WHERE c.relnamespace = 'whisperer'::regnamespace AND a.grantee = 0$$, 'no table or view is granted to PUBLIC');
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    WHERE p.pronamespace = 'whisperer'::regnamespace AND a.grantee = 0$$, 'no function is executable by PUBLIC');
SELECT is_empty($$
    SELECT nspname FROM pg_namespace n, aclexplode(n.nspacl) a WHERE nspname = 'whisperer' AND a.grantee = 0$$,
    'nothing on the schema is granted to PUBLIC');
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'whisperer'::regnamespace AND p.proisstrict$$,
    'no function is STRICT');

-- ---- The rows
CREATE TABLE public.views_package (id integer);
INSERT INTO whisperer.subscription (id, owner_oid, owner_name, owner_system, event_type, target_url, is_active, ended_date)
SELECT s.id, oid, rolname, (SELECT system_identifier FROM pg_control_system()), 'views', 'http://receiver.test/' || s.id, s.id <> 9102,
       CASE s.id WHEN 9103 THEN now() END
FROM pg_roles, generate_series(9101, 9103) AS s (id) WHERE rolname = current_user;
INSERT INTO whisperer.event VALUES ('00000000-0000-0000-0000-0000000000e0', '{"shared": 1}');
INSERT INTO whisperer.delivery (uuid, subscription_id, xid, due, not_before, attempts, event_type, event_uuid, payload, body,
                                relation_schema, relation_name, created_date, modified_date) VALUES
    ('da81e851-3982-4c61-87dd-1e58a7d3f971', 9101, pg_current_xact_id(), NULL, NULL, 0, 'views "q"', NULL, '{"a": "\u00e9"}', NULL,
     'public', 'views_package', '2020-01-01', '2020-01-01'),
    ('00000000-0000-0000-0000-000000000002', 9101, pg_current_xact_id(), '2020-05-05', NULL, 1, 'views',
     '00000000-0000-0000-0000-0000000000e0', NULL, NULL, 'public', 'gone', '2020-01-02', '2020-01-03'),
    ('00000000-0000-0000-0000-000000000003', 9101, pg_current_xact_id(), NULL, '2020-06-06', 0, 'views', NULL, '{}', '{"own": true}',
     'nowhere', 'gone', '2020-01-03', '2020-01-03');
INSERT INTO whisperer.history (uuid, subscription_id, state, attempts, event_type, event_uuid, payload, response_http_status,
                               response_content, response_time, error, request_datetimes, created_date, modified_date) VALUES
    ('00000000-0000-0000-0000-000000000004', 9101, 'delivered', 1, 'views', NULL, '{"b": 2}', 201, 'ok', '12 ms', NULL,
     ARRAY['2020-01-04'::timestamptz], now() - interval '1 day', now() - interval '10 minutes'),
    ('00000000-0000-0000-0000-000000000005', 9101, 'failed', 18, 'views', '00000000-0000-0000-0000-0000000000e0', NULL, NULL, NULL,
     '10 s', 'time-out', ARRAY['2020-01-04'::timestamptz], now() - interval '1 day', now() - interval '20 minutes'),
    ('00000000-0000-0000-0000-000000000006', 9101, 'failed', 0, 'views', NULL, NULL, NULL, NULL, NULL, 'no body', '{}',
     now() - interval '2 days', now() - interval '2 hours'),
    ('00000000-0000-0000-0000-000000000007', 9102, 'cancelled', 0, 'views', NULL, '{}', NULL, NULL, NULL, NULL, '{}',
     now() - interval '2 days', now() - interval '30 minutes');

CREATE TEMP VIEW seen AS SELECT * FROM whisperer.webhook_events WHERE subscription_id BETWEEN 9101 AND 9103;
SELECT is((SELECT count(*) FROM seen), 7::bigint, 'one row for each delivery');
SELECT row_eq($$SELECT subscription_id, event_type, target_url, state, delivered, retry_count, request_payload, next_attempt_at, relation
                FROM seen WHERE uuid = 'da81e851-3982-4c61-87dd-1e58a7d3f971'$$,
    ROW (9101::bigint, 'views "q"'::text, 'http://receiver.test/9101'::text, 'pending'::text, false, 0,
         '{"event": {"type": "views \"q\"", "uuid": "da81e85139824c6187dd1e58a7d3f971"}, "payload": {"a": "é"}}'::jsonb,
         '2020-01-01'::timestamptz, 'public.views_package'::regclass),
    'a new one: the envelope around its payload, due when it was raised');
SELECT is((SELECT request_payload FROM seen WHERE uuid = '00000000-0000-0000-0000-000000000002'),
    '{"event": {"type": "views", "uuid": "00000000000000000000000000000002"}, "payload": {"shared": 1}}',
    'the envelope around a shared payload');
SELECT is((SELECT next_attempt_at FROM seen WHERE uuid = '00000000-0000-0000-0000-000000000002'), '2020-05-05', 'a retry is due when it is');
SELECT is((SELECT relation FROM seen WHERE uuid = '00000000-0000-0000-0000-000000000002'), NULL, 'a table that is gone');
SELECT is((SELECT relation FROM seen WHERE uuid = '00000000-0000-0000-0000-000000000003'), NULL, 'a schema that is gone');
SELECT is((SELECT request_payload FROM seen WHERE uuid = '00000000-0000-0000-0000-000000000003'), '{"own": true}', 'a body of its own');
SELECT is((SELECT next_attempt_at FROM seen WHERE uuid = '00000000-0000-0000-0000-000000000003'), '2020-06-06', 'not before a time');
SELECT row_eq($$SELECT state, delivered, retry_count, request_payload, response_http_status, response_content, response_time, error,
                       request_datetimes, next_attempt_at, relation
                FROM seen WHERE uuid = '00000000-0000-0000-0000-000000000004'$$,
    ROW ('delivered'::text, true, 1,
         '{"event": {"type": "views", "uuid": "00000000000000000000000000000004"}, "payload": {"b": 2}}'::jsonb,
         201, 'ok'::text, '12 ms'::interval, NULL::text, ARRAY['2020-01-04'::timestamptz], NULL::timestamptz, NULL::regclass),
    'a delivered one');
SELECT is((SELECT request_payload FROM seen WHERE uuid = '00000000-0000-0000-0000-000000000006'), NULL, 'no body was made');
SELECT results_eq('SELECT uuid FROM whisperer.pending WHERE subscription_id = 9101 ORDER BY created_date DESC',
    $$SELECT uuid FROM seen WHERE state = 'pending' ORDER BY created_date DESC$$, 'pending: what is pending');
SELECT results_eq('SELECT uuid FROM whisperer.failed WHERE subscription_id = 9101 ORDER BY modified_date',
    $$VALUES ('00000000-0000-0000-0000-000000000006'::uuid), ('00000000-0000-0000-0000-000000000005')$$, 'failed: what failed');
SELECT is((SELECT count(*) FROM seen WHERE delivered), 1::bigint, 'by delivered');

-- ---- Health
INSERT INTO whisperer.subscription_state VALUES (9101, 7, '2100-01-01', 503, 'status 503');
SELECT row_eq('SELECT * FROM whisperer.subscription_health WHERE subscription_id = 9101',
    ROW (9101::bigint, 'views'::text, 'http://receiver.test/9101'::text, true, 3::bigint, '2020-01-01'::timestamptz, 0, 1::bigint, 1::bigint,
         7, '2100-01-01'::timestamptz, 503, 'status 503'::text), 'health of a subscription in trouble');
SELECT row_eq('SELECT * FROM whisperer.subscription_health WHERE subscription_id = 9102',
    ROW (9102::bigint, 'views'::text, 'http://receiver.test/9102'::text, false, 0::bigint, NULL::timestamptz, 0, 0::bigint, 0::bigint, 0,
         NULL::timestamptz, NULL::integer, NULL::text), 'health of one of which nothing is known');
SELECT is_empty('SELECT 1 FROM whisperer.subscription_health WHERE subscription_id = 9103', 'an ended subscription has none');

-- ---- relation_of
SELECT is(whisperer.relation_of('public', 'views_package'), 'public.views_package'::regclass, 'relation_of');
SELECT is(whisperer.relation_of('public', NULL), NULL, 'relation_of without a name');
SELECT is(whisperer.relation_of(NULL, 'views_package'), NULL, 'relation_of without a schema');
SELECT is(whisperer.relation_of('public', 'no such table'), NULL, 'relation_of an unknown table');
SELECT is(whisperer.relation_of(repeat('x', 200), 'y'), NULL, 'relation_of a name longer than names are');

-- ---- Plans: no sort and no scan of a whole table, as a large history needs it.
INSERT INTO whisperer.history (uuid, subscription_id, state, attempts, event_type, payload, request_datetimes, created_date, modified_date)
SELECT gen_random_uuid(), CASE WHEN i < 1000 THEN 9102 ELSE 9101 END, CASE WHEN i % 50 = 1 THEN 'failed' ELSE 'delivered' END, 1, 'views',
       '{"filler": "' || repeat('x', 200) || '"}', '{}', now() - (20000 - i) * interval '1 s', now() - (20000 - i) * interval '1 s'
FROM generate_series(1, 20000) AS i;
ANALYZE whisperer.history, whisperer.delivery, whisperer.subscription, whisperer.event;
-- The lines of a plan that read or sort deliveries.
CREATE FUNCTION pg_temp.plan_of(condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text; lines text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS off) SELECT * FROM whisperer.webhook_events ' || condition LOOP
        IF line ~ '(Scan.* on (delivery|history)|Sort( |$)|Merge Append)' AND line !~ 'Sort Key' THEN
            lines := lines || '[' || regexp_replace(line, '^[ >-]*', '') || ']';
        END IF;
    END LOOP;
    RETURN lines;
END $$;
SELECT unalike(pg_temp.plan_of($$WHERE uuid = 'da81e851-3982-4c61-87dd-1e58a7d3f971'$$), '%Seq Scan on history%', 'by uuid');
SELECT alike(pg_temp.plan_of('ORDER BY created_date DESC LIMIT 20'), '%Merge Append%history_by_created on history]', 'newest');
SELECT alike(pg_temp.plan_of('ORDER BY modified_date DESC LIMIT 20'), '%Merge Append%history_by_modified on history]', 'last settled');
SELECT is(pg_temp.plan_of($$WHERE state = 'failed' ORDER BY modified_date DESC LIMIT 20$$),
    '[Index Scan Backward using history_unsent_by_modified on history]', 'by state, sorted by time');
SELECT alike(pg_temp.plan_of('WHERE subscription_id = 9102 ORDER BY modified_date DESC LIMIT 20'),
    '%history_by_subscription on history]', 'a subscription all of whose rows are old');
SELECT alike(pg_temp.plan_of('WHERE subscription_id = 9101 ORDER BY created_date DESC LIMIT 20'),
    '%history_by_subscription_created on history]', 'a subscription that has nearly all rows');
SELECT unalike(pg_temp.plan_of($$WHERE created_date BETWEEN now() - interval '60 s' AND now()$$), '%Seq Scan on history%', 'by time');
SELECT unalike(pg_temp.plan_of($$WHERE state = 'pending'$$), '%history%', 'what is pending is not looked for in the history');

SELECT * FROM finish();
ROLLBACK;
