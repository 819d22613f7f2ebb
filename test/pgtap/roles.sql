-- Parity row 40 and contract 11: five kinds of role (none, deliver, subscribe, monitor, admin) and every public function
-- and view; what they see of each other's; limits to one event type; reassign.
BEGIN;
SELECT no_plan();

CREATE ROLE regress_none;
CREATE ROLE regress_deliver;
CREATE ROLE regress_subscribe;
CREATE ROLE regress_monitor;
CREATE ROLE regress_admin;
CREATE ROLE regress_other;
CREATE ROLE regress_one;
CREATE TABLE public.roles_package (id integer);
GRANT ALL ON public.roles_package TO PUBLIC;
CREATE FUNCTION public.roles_countdown(integer, jsonb) RETURNS numeric LANGUAGE sql AS 'SELECT 1.0';

SELECT whisperer.register_event_type('mine');
SELECT whisperer.register_event_type('spare');
SELECT whisperer.grant_access('regress_deliver', 'deliver');
SELECT whisperer.grant_access('regress_subscribe', 'subscribe');
SELECT whisperer.grant_access('regress_other', 'subscribe');
SELECT whisperer.grant_access('regress_monitor', 'monitor');
SELECT whisperer.grant_access('regress_admin', 'admin');
SELECT whisperer.grant_access('regress_one', 'subscribe', 'mine');
SELECT whisperer.grant_access('regress_one', 'subscribe', 'mine'); -- again: nothing
SELECT is((SELECT count(*) FROM whisperer.access_grant WHERE role_name = 'regress_one'), 1::bigint, 'granting again does nothing');

-- What comes of a statement as a role: ok, or "SQLSTATE message". Nothing of it stays.
CREATE FUNCTION public.outcome(role name, statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    EXECUTE statement;
    RAISE SQLSTATE 'ZZ000';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE SQLSTATE WHEN 'ZZ000' THEN 'ok' ELSE SQLSTATE || ' ' || SQLERRM END;
END $$;
-- And what a query answers.
CREATE FUNCTION public.answer(role name, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    EXECUTE format('SELECT string_agg(concat_ws('' '', variadic ARRAY(SELECT value FROM jsonb_each_text(to_jsonb(q)))), ''; '') FROM (%s) q', query)
        INTO result;
    EXECUTE 'RESET ROLE';
    RETURN result;
END $$;

-- Two owners, each with a subscription, a waiting delivery and a settled one.
SET LOCAL ROLE regress_subscribe;
SELECT whisperer.subscribe('mine', 'https://example.com:8443/hidden/path?token=1', 's3cret', additional_headers => '{"X-Key": "hidden"}') AS mine \gset
SET LOCAL ROLE regress_other;
SELECT whisperer.subscribe('mine', 'https://example.org/other', config => '{"auth": {"auth_type": "bearer", "token": "s3cret"}, "k": 1}') AS other \gset
RESET ROLE;
INSERT INTO whisperer.event VALUES ('00000000-0000-0000-0000-0000000000ee', '{"hidden": "shared"}');
INSERT INTO whisperer.delivery (uuid, subscription_id, xid, event_type, event_uuid, response_content, not_before)
VALUES ('00000000-0000-0000-0000-0000000000a1', :mine, pg_current_xact_id(), 'mine', '00000000-0000-0000-0000-0000000000ee', 'hidden', '2100-01-01'),
       ('00000000-0000-0000-0000-0000000000b1', :other, pg_current_xact_id(), 'mine', '00000000-0000-0000-0000-0000000000ee', 'hidden', '2100-01-01');
INSERT INTO whisperer.history (uuid, subscription_id, state, attempts, event_type, payload, body, response_content, response_http_status, error, request_datetimes, created_date, modified_date)
VALUES ('00000000-0000-0000-0000-0000000000a2', :mine, 'failed', 1, 'mine', '{"hidden": 2}', NULL, 'hidden', 500, 'status 500', '{}', now(), now()),
       ('00000000-0000-0000-0000-0000000000b2', :other, 'delivered', 1, 'mine', NULL, '{"hidden": 3}', 'hidden', 200, NULL, '{}', now(), now());
INSERT INTO whisperer.function_failure (subscription_id, uuid, attempt, kind, sqlstate, error, occurred)
SELECT s, '00000000-0000-0000-0000-0000000000a2', 1, 'c', '22012', 'division by zero', now() FROM unnest(ARRAY[:mine, :other]::bigint[]) s;

-- ---- The matrix. A call by the subscription's owner where it has one; "denied" is 42501.
CREATE TABLE public.matrix (function text, call text, none text, deliver text, subscribe text, monitor text, admin text);
INSERT INTO public.matrix VALUES
    ('register_event_type', $$SELECT whisperer.register_event_type('new')$$,                'denied', 'denied', 'denied', 'denied', 'ok'),
    ('update_event_type', $$SELECT whisperer.update_event_type('spare', '{"description": "d"}')$$, 'denied', 'denied', 'denied', 'denied', 'ok'),
    ('unregister_event_type', $$SELECT whisperer.unregister_event_type('spare')$$,          'denied', 'denied', 'denied', 'denied', 'ok'),
    ('subscribe', $$SELECT whisperer.subscribe('mine', 'https://example.net/')$$,           'denied', 'denied', 'ok', 'denied', 'ok'),
    ('subscribe', $$SELECT whisperer.subscribe('{"event_type": "mine", "target_url": "https://example.net/"}')$$, 'denied', 'denied', 'ok', 'denied', 'ok'),
    ('update_subscription', format($$SELECT whisperer.update_subscription(%s, '{"is_active": false}')$$, :mine), 'denied', 'denied', 'ok', 'denied', 'ok'),
    ('unsubscribe', format($$SELECT whisperer.unsubscribe(%s)$$, :mine),                    'denied', 'denied', 'ok', 'denied', 'ok'),
    ('deliver_event', $$SELECT whisperer.deliver_event('{"a": 1}'::jsonb, 'spare')$$,       'denied', 'ok', 'ok', 'denied', 'ok'),
    ('deliver_event', $$SELECT whisperer.deliver_event('{"a": 1}', 'spare')$$,              'denied', 'ok', 'ok', 'denied', 'ok'),
    ('deliver_event_trigger', $$CREATE TRIGGER t AFTER INSERT ON public.roles_package FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('mine')$$, 'denied', 'ok', 'ok', 'denied', 'ok'),
    ('attach', $$SELECT whisperer.attach('public.roles_package', 'mine')$$,                 'denied', 'ok', 'ok', 'denied', 'ok'),
    ('detach', $$SELECT whisperer.detach('public.roles_package', 'spare')$$,                'denied', '42704', '42704', 'denied', '42704'),
    ('retry', $$SELECT whisperer.retry('00000000-0000-0000-0000-0000000000a1')$$,           'denied', 'denied', 'ok', 'denied', 'ok'),
    ('retry_failed', $$SELECT whisperer.retry_failed()$$,                                   'denied', 'denied', 'ok', 'denied', 'ok'),
    ('cancel', $$SELECT whisperer.cancel('00000000-0000-0000-0000-0000000000a1')$$,         'denied', 'denied', 'ok', 'denied', 'ok'),
    ('wait_until_settled', $$SELECT whisperer.wait_until_settled('0')$$,                    'denied', 'ok', 'ok', 'denied', 'ok'),
    ('countdown_preview', $$SELECT whisperer.countdown_preview(NULL)$$,                     'denied', 'ok', 'ok', 'denied', 'ok'),
    ('register_countdown', $$SELECT whisperer.register_countdown('roles', 'public.roles_countdown')$$, 'denied', 'denied', 'denied', 'denied', 'ok'),
    ('unregister_countdown', $$SELECT whisperer.unregister_countdown('roles-unknown')$$,    'denied', 'denied', 'denied', 'denied', '42704'),
    ('prune', $$SELECT whisperer.prune()$$,                                                 'denied', 'denied', 'denied', 'denied', 'ok'),
    ('reset_statistics', $$SELECT whisperer.reset_statistics()$$,                           'denied', 'denied', 'denied', 'denied', 'ok'),
    ('resume', $$SELECT whisperer.resume()$$,                                               'denied', 'denied', 'denied', 'denied', 'ok'),
    ('grant_access', $$SELECT whisperer.grant_access('regress_none', 'admin')$$,            'denied', 'denied', 'denied', 'denied', 'ok'),
    ('revoke_access', $$SELECT whisperer.revoke_access('regress_none', 'deliver')$$,        'denied', 'denied', 'denied', 'denied', 'ok'),
    ('reassign', $$SELECT whisperer.reassign('regress_subscribe', 'regress_other')$$,       'denied', 'denied', 'denied', 'denied', 'WH002'),
    ('renew_privileges', $$SELECT whisperer.renew_privileges()$$,                           'denied', 'denied', 'denied', 'denied', 'ok'),
    ('webhook_events', 'SELECT * FROM whisperer.webhook_events',                            'denied', 'denied', 'ok', 'ok', 'ok'),
    ('pending', 'SELECT * FROM whisperer.pending',                                          'denied', 'denied', 'ok', 'ok', 'ok'),
    ('failed', 'SELECT * FROM whisperer.failed',                                            'denied', 'denied', 'ok', 'ok', 'ok'),
    ('event_types', 'SELECT * FROM whisperer.event_types',                                  'denied', 'denied', 'ok', 'ok', 'ok'),
    ('subscriptions', 'SELECT * FROM whisperer.subscriptions',                              'denied', 'denied', 'ok', 'ok', 'ok'),
    ('subscription_health', 'SELECT * FROM whisperer.subscription_health',                  'denied', 'denied', 'ok', 'ok', 'ok'),
    ('function_failures', 'SELECT * FROM whisperer.function_failures',                      'denied', 'denied', 'ok', 'ok', 'ok'),
    ('countdowns', 'SELECT * FROM whisperer.countdowns',                                    'denied', 'denied', 'ok', 'ok', 'ok'),
    ('workers', 'SELECT * FROM whisperer.workers',                                          'denied', 'denied', 'denied', 'ok', 'ok'),
    ('statistics', 'SELECT * FROM whisperer.statistics',                                    'denied', 'denied', 'denied', 'ok', 'ok');
-- The other subscription goes to the same place, so that there is a conflict for reassign to find.
UPDATE whisperer.subscription SET target_url = 'https://example.com:8443/hidden/path?token=1' WHERE id = :other;

SELECT is(CASE WHEN got LIKE '42501%' THEN 'denied' WHEN got = 'ok' THEN got ELSE left(got, 5) END, expected,
          format('%s, %s: %s', role, expected, call))
FROM public.matrix
    CROSS JOIN LATERAL (VALUES ('none', none), ('deliver', deliver), ('subscribe', subscribe), ('monitor', monitor), ('admin', admin))
        AS r (role, expected)
    CROSS JOIN LATERAL public.outcome('regress_' || role, call) AS got;
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'whisperer'::regnamespace
      AND proname NOT IN (SELECT function FROM public.matrix) AND obj_description(oid, 'pg_proc') NOT LIKE 'Internal%'
      AND proname NOT IN ('owner_name', 'owner_is_gone', 'relation_of', 'in_flight_list', 'home_changed')$$,
    'no function is missing in the matrix');
SELECT is_empty($$
    SELECT relname FROM pg_class WHERE relnamespace = 'whisperer'::regnamespace AND relkind = 'v'
      AND relname NOT IN (SELECT function FROM public.matrix)$$, 'nor a view');
UPDATE whisperer.subscription SET target_url = 'https://example.org/other' WHERE id = :other;

-- Nobody has more than that: no table as a whole, no column that may hold what others may not see.
SELECT is_empty($$
    SELECT r, c.relname, a.attname
    FROM unnest(ARRAY['regress_none', 'regress_deliver', 'regress_subscribe', 'regress_monitor', 'regress_admin']) r, pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind IN ('r', 'p') AND has_column_privilege(r, c.oid, a.attnum, 'SELECT')
      AND (c.relname NOT IN ('event_type_entry', 'subscription', 'subscription_state', 'delivery', 'history', 'function_failure', 'custom_countdown')
           OR NOT (c.relrowsecurity OR c.relname = 'custom_countdown')
           OR a.attname IN ('payload', 'body', 'event_uuid', 'response_content', 'target_url', 'additional_headers'))$$,
    'no privileges on what the views mask, nor on secrets, nor without row-level security');
SELECT is_empty($$
    SELECT r, c.relname FROM unnest(ARRAY['regress_none', 'regress_deliver', 'regress_subscribe', 'regress_monitor', 'regress_admin']) r, pg_class c
    WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind IN ('r', 'v', 'p')
      AND (has_any_column_privilege(r, c.oid, 'INSERT, UPDATE, REFERENCES') OR has_table_privilege(r, c.oid, 'DELETE, TRUNCATE, TRIGGER'))$$,
    'nobody writes to a table or view');

-- ---- Rows
SELECT is(public.answer('regress_subscribe', 'SELECT right(uuid::text, 2) FROM whisperer.webhook_events ORDER BY 1'), 'a1; a2', 'an owner sees its deliveries');
SELECT is(public.answer('regress_monitor', 'SELECT right(uuid::text, 2) FROM whisperer.webhook_events ORDER BY 1'), 'a1; a2; b1; b2', 'a monitor sees all');
SELECT is(public.answer('regress_admin', 'SELECT right(uuid::text, 2) FROM whisperer.webhook_events ORDER BY 1'), 'a1; a2; b1; b2', 'an admin, too');
SELECT is(public.answer('regress_one', 'SELECT right(uuid::text, 2) FROM whisperer.webhook_events ORDER BY 1'), NULL, 'who owns nothing sees none');
SELECT is(public.answer('regress_one', 'SELECT event_type FROM whisperer.event_types'), 'mine', 'event types: those it has a grant for');
SELECT is(public.answer('regress_subscribe', 'SELECT event_type FROM whisperer.event_types ORDER BY 1'), 'mine; spare', 'with a grant for all: all');
SELECT is(public.answer(role, 'SELECT count(*) FROM whisperer.' || view_name), number, format('%s: %s of %s', role, number, view_name))
FROM (VALUES ('regress_subscribe', '1'), ('regress_other', '1'), ('regress_one', '0'), ('regress_monitor', '2'), ('regress_admin', '2')) r (role, number),
    unnest(ARRAY['subscriptions', 'subscription_health', 'function_failures', 'pending']) view_name;
-- A cheap function of the reader's own sees no row that the reader may not see.
CREATE FUNCTION public.leak(uuid) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
    RAISE NOTICE 'leaked %', $1;
    IF $1::text LIKE '%b_' THEN RAISE EXCEPTION 'leaked %', $1; END IF;
    RETURN true;
END $$;
SET LOCAL client_min_messages = warning;
SELECT is(public.outcome('regress_subscribe', 'SELECT * FROM whisperer.webhook_events WHERE public.leak(uuid)'), 'ok', 'a condition sees only the reader''s rows');
SELECT is(public.outcome('regress_subscribe', 'SELECT uuid FROM whisperer.history WHERE public.leak(uuid)'), 'ok', 'also on the table');
-- Roles whose privileges one has.
GRANT regress_other TO regress_one;
SELECT is(public.answer('regress_one', 'SELECT right(uuid::text, 2) FROM whisperer.webhook_events ORDER BY 1'), 'b1; b2', 'a member sees what the group owns');
SELECT is(public.outcome('regress_one', format('SELECT whisperer.unsubscribe(%s)', :other)), 'ok', 'and manages it');
REVOKE regress_other FROM regress_one;

-- ---- What a monitor does not see
SELECT is_empty(format($$
    SELECT view_name, seen FROM unnest(ARRAY['webhook_events', 'pending', 'failed', 'event_types', 'subscriptions', 'subscription_health', 'function_failures', 'workers', 'statistics']) view_name,
        public.answer('regress_monitor', 'SELECT to_jsonb(v)::text FROM whisperer.' || view_name || ' v') seen
    WHERE seen ~ 'hidden|s3cret|token=1|example.org/other'$$), 'no body, response, header value, path of a URL, or secret');
SELECT is(public.answer('regress_monitor', format('SELECT target_url, additional_headers, has_secret FROM whisperer.subscriptions WHERE id = %s', :mine)),
    'true https://example.com:8443 {"X-Key": null}', 'scheme and host, names of headers');
SELECT is(public.answer('regress_monitor', $$SELECT request_payload, response_content, target_url, response_http_status, error FROM whisperer.failed$$),
    'status 500 https://example.com:8443 500', 'status and error');
SELECT is(public.answer('regress_subscribe', $$SELECT request_payload -> 'payload' AS p, response_content, target_url FROM whisperer.failed$$),
    '{"hidden": 2} https://example.com:8443/hidden/path?token=1 hidden', 'the owner sees all of it');
SELECT is(public.answer('regress_subscribe', $$SELECT request_payload -> 'payload' AS p, response_content FROM whisperer.pending$$),
    '{"hidden": "shared"} hidden', 'also a shared payload');
SELECT is(public.answer('regress_admin', $$SELECT count(request_payload) AS a, count(response_content) AS b, count(*) FILTER (WHERE target_url LIKE '%/%/%/%') AS urls FROM whisperer.webhook_events$$),
    '4 4 4', 'an admin sees all');
SELECT is(public.answer('regress_other', $$SELECT whisperer.shown_body('failed', '00000000-0000-0000-0000-0000000000a2') AS a, whisperer.shown_url(1) AS b$$), '', 'the views'' functions show nothing more');
SELECT whisperer.grant_access('regress_other', 'monitor');
SELECT is(public.answer('regress_other', 'SELECT right(uuid::text, 2) AS u, request_payload IS NOT NULL AS seen FROM whisperer.webhook_events ORDER BY 1'),
    'a1 false; a2 false; b1 true; b2 true', 'a monitor that owns some sees all of those');
SELECT whisperer.revoke_access('regress_other', 'monitor');
-- A secret of its own is shown to nobody.
SELECT is_empty($$
    SELECT role, view_name FROM unnest(ARRAY['postgres', 'regress_admin', 'regress_subscribe', 'regress_other']) role,
        unnest(ARRAY['webhook_events', 'event_types', 'subscriptions', 'subscription_health']) view_name
    WHERE public.answer(role, 'SELECT to_jsonb(v)::text FROM whisperer.' || view_name || ' v') ~ 's3cret'$$, 'no view shows a secret');

-- ---- Somebody else's is as unknown
SELECT is(replace(public.outcome('regress_other', format(call, mine)), mine, unknown), public.outcome('regress_other', format(call, unknown)), call)
FROM (VALUES ('00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000ff')) u (mine, unknown),
    unnest(ARRAY['SELECT whisperer.retry(%L)', 'SELECT whisperer.retry(%L, true)', 'SELECT whisperer.cancel(%L)',
                 $$SELECT whisperer.deliver_event(NULL::text, 'mine', event_uuid => %L)$$,
                 $$SELECT whisperer.deliver_event(NULL::text, 'mine', false, %L)$$]) call;
SELECT alike(public.outcome('regress_other', $$SELECT whisperer.cancel('00000000-0000-0000-0000-0000000000a1')$$), 'WH003%', 'WH003');
SELECT is(replace(public.outcome('regress_other', format(call, mine)), ' ' || mine || ' ', ' ' || unknown || ' '), public.outcome('regress_other', format(call, unknown)), call)
FROM (VALUES ((:mine)::text, '999999')) u (mine, unknown),
    unnest(ARRAY['SELECT whisperer.unsubscribe(%s)', $$SELECT whisperer.update_subscription(%s, '{"is_active": false}')$$,
                 'SELECT whisperer.retry_failed(%s)']) call;
SELECT alike(public.outcome('regress_other', 'SELECT whisperer.unsubscribe(1)'), 'WH001%', 'WH001') WHERE :mine = 1;
-- Event types that are not granted, registered or not.
SELECT is(replace(public.outcome('regress_one', format(call, 'spare')), 'spare', 'unknown'), public.outcome('regress_one', format(call, 'unknown')), call)
FROM unnest(ARRAY[$$SELECT whisperer.subscribe(%L, 'https://example.net/')$$, 'SELECT whisperer.deliver_event(''{}''::jsonb, %L)',
                  $$SELECT whisperer.attach('public.roles_package', %L)$$, $$SELECT whisperer.update_event_type(%L, '{}')$$,
                  'SELECT whisperer.unregister_event_type(%L)']) call;

-- ---- One event type
SELECT is(left(public.outcome('regress_one', replace(call, 'TYPE', event_type)), 5), expected, format('%s: %s', expected, replace(call, 'TYPE', event_type)))
FROM (VALUES ('mine', 'ok'), ('spare', '42501')) t (event_type, expected),
    unnest(ARRAY[$$SELECT whisperer.subscribe('TYPE', 'https://example.net/')$$, $$SELECT whisperer.deliver_event('{}'::jsonb, 'TYPE')$$,
                  $$SELECT whisperer.attach('public.roles_package', 'TYPE')$$,
                  $$CREATE TRIGGER t AFTER INSERT ON public.roles_package FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('TYPE')$$,
                  $$CREATE TRIGGER t AFTER INSERT ON public.roles_package REFERENCING NEW TABLE AS n EXECUTE FUNCTION whisperer.deliver_event_trigger('TYPE', '{"a": 1}')$$]) call;
SET LOCAL ROLE regress_one;
SELECT whisperer.subscribe('mine', 'https://example.net/') AS one \gset
RESET ROLE;
SELECT alike(public.outcome('regress_one', format($$SELECT whisperer.update_subscription(%s, '{"event_type": "spare"}')$$, :one)), '42501%', 'nor by changing the event type');

-- ---- A type's owner
UPDATE whisperer.event_type_entry SET owner_oid = 'regress_deliver'::regrole, owner_name = 'regress_deliver' WHERE event_type = 'spare';
SELECT is(public.outcome('regress_deliver', $$SELECT whisperer.update_event_type('spare', '{"description": "d"}')$$), 'ok', 'the owner changes its type');
SELECT is(public.outcome('regress_deliver', $$SELECT whisperer.unregister_event_type('spare')$$), 'ok', 'and removes it');
SELECT alike(public.outcome('regress_deliver', $$SELECT whisperer.update_event_type('mine', '{}')$$), '42501%', 'not another''s');

-- ---- Revoking
SELECT whisperer.revoke_access('regress_one', 'subscribe', 'mine');
SELECT whisperer.revoke_access('regress_one', 'subscribe', 'mine'); -- again: nothing
SELECT is((SELECT is_active::text || ' ' || inactive_reason FROM whisperer.subscriptions WHERE id = :one),
    'false the owner may no longer subscribe to the event type', 'subscriptions to what one may no longer read are paused');
SELECT is((SELECT count(*) FROM whisperer.subscriptions WHERE id IN (:mine, :other) AND is_active), 2::bigint, 'others are not');
SELECT is_empty($$SELECT 1 FROM pg_namespace, aclexplode(nspacl) WHERE nspname = 'whisperer' AND grantee = 'regress_one'::regrole$$, 'no privilege stays');
SELECT is_empty($$SELECT 1 FROM pg_proc p, aclexplode(proacl) WHERE pronamespace = 'whisperer'::regnamespace AND grantee = 'regress_one'::regrole$$, 'on functions');
SELECT is_empty($$SELECT 1 FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(coalesce(attacl, relacl))
    WHERE relnamespace = 'whisperer'::regnamespace AND grantee = 'regress_one'::regrole$$, 'on tables, views and columns');
SELECT whisperer.grant_access('regress_one', 'deliver', 'mine');
SELECT whisperer.grant_access('regress_one', 'subscribe');
SELECT is(public.outcome('regress_one', format($$SELECT whisperer.update_subscription(%s, '{"is_active": true}')$$, :one)), 'ok', 'the owner resumes once it may again');
SELECT whisperer.revoke_access('regress_one', 'subscribe');
SELECT is(public.outcome('regress_one', $$SELECT whisperer.deliver_event('{}'::jsonb, 'mine')$$), 'ok', 'revoking one grant leaves the other');
SELECT alike(public.outcome('regress_one', 'SELECT * FROM whisperer.subscriptions'), '42501%', 'and only what that needs');
-- Grants go with their type.
SELECT whisperer.register_event_type('brief');
SELECT whisperer.grant_access('regress_none', 'deliver', 'brief');
SELECT whisperer.unregister_event_type('brief');
SELECT whisperer.register_event_type('brief');
SELECT alike(public.outcome('regress_none', $$SELECT whisperer.deliver_event('{}'::jsonb, 'brief')$$), '42501 permission denied for schema%', 'a type that gets a name again has no grants');
-- Through a group.
GRANT regress_deliver TO regress_none;
SELECT is(public.outcome('regress_none', $$SELECT whisperer.deliver_event('{}'::jsonb, 'mine')$$), 'ok', 'a member of a role may what the role may');
REVOKE regress_deliver FROM regress_none;

-- ---- A write to a table with a trigger needs nothing
SELECT whisperer.attach('public.roles_package', 'mine');
SELECT is(public.outcome('regress_none', 'INSERT INTO public.roles_package VALUES (1)'), 'ok', 'a writer without any privilege');
SET LOCAL ROLE regress_none;
INSERT INTO public.roles_package VALUES (1);
RESET ROLE;
SELECT is((SELECT count(*) FROM whisperer.webhook_events WHERE relation = 'public.roles_package'::regclass), 2::bigint, 'raises the event');

-- ---- reassign
SELECT alike(public.outcome('postgres', $$SELECT whisperer.reassign('regress_nobody', 'regress_other')$$), '42704%', 'an unknown name');
SELECT is(public.outcome('postgres', $$SELECT whisperer.reassign('regress_none', 'regress_other')$$), 'ok', 'a role that owns nothing');
UPDATE whisperer.subscription SET callback = 'public.something(jsonb,text,jsonb,jsonb)' WHERE id = :mine;
SELECT alike(public.outcome('regress_admin', $$SELECT whisperer.reassign('regress_subscribe', 'postgres')$$), '42501%', 'an admin cannot make its function run as a superuser');
GRANT regress_other TO regress_admin;
SELECT is(public.outcome('regress_admin', $$SELECT whisperer.reassign('regress_subscribe', 'regress_other')$$), 'ok', 'nor needs to be more than a member');
SELECT whisperer.reassign('regress_subscribe', 'regress_other');
SELECT whisperer.reassign('regress_deliver', 'regress_other');
SELECT results_eq(format('SELECT id FROM whisperer.subscriptions WHERE owner = %L ORDER BY id', 'regress_other'), ARRAY[:mine, :other]::bigint[], 'subscriptions moved');
SELECT results_eq($$SELECT event_type FROM whisperer.event_types WHERE owner = 'regress_other'$$, ARRAY['spare'], 'event types, too');
SELECT is(public.answer('regress_subscribe', 'SELECT id FROM whisperer.subscriptions'), NULL, 'the old owner sees them no longer');
-- Of a role that was dropped; one that got its name does not inherit.
DROP OWNED BY regress_other;
REVOKE regress_other FROM regress_admin;
DROP ROLE regress_other;
SELECT is((SELECT string_agg(owner || ' ' || is_active || ' ' || inactive_reason, '; ') FROM whisperer.subscriptions WHERE id = :mine),
    'regress_other false held: the owner''s role is gone; events are kept for whisperer.reassign()', 'held when the owner is gone');
CREATE ROLE regress_other;
SELECT whisperer.grant_access('regress_other', 'subscribe');
SELECT is(public.answer('regress_other', 'SELECT id FROM whisperer.subscriptions'), NULL, 'a role of the same name has nothing');
SELECT alike(public.outcome('regress_other', format('SELECT whisperer.unsubscribe(%s)', :mine)), 'WH001%', 'and manages nothing');
SELECT whisperer.reassign('regress_other', 'regress_other');
SELECT is(public.answer('regress_other', 'SELECT id FROM whisperer.subscriptions ORDER BY id'), format('%s; %s', :mine, :other), 'unless it is given it');
ALTER ROLE regress_other RENAME TO regress_renamed;
SELECT is((SELECT DISTINCT owner FROM whisperer.subscriptions WHERE id = :mine), 'regress_renamed', 'a renamed role stays the owner');
SELECT is(public.answer('regress_renamed', 'SELECT count(*) FROM whisperer.subscriptions'), '2', 'and keeps its grants');

SELECT * FROM finish();
ROLLBACK;
