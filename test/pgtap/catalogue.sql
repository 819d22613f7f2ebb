-- The public surface as the catalogue shows it: functions, views, settings; each described, none open to
-- the public.
BEGIN;
SELECT no_plan();

-- Functions: name and arguments, as documented.
SELECT has_function('whisperer', name, string_to_array(arguments, ', ')::name[], format('%s(%s)', name, arguments))
FROM (VALUES
    ('register_event_type', 'text, text, text, text'),
    ('update_event_type', 'text, jsonb'),
    ('unregister_event_type', 'text'),
    ('subscribe', 'text, text, text, text, jsonb, jsonb, jsonb'),
    ('subscribe', 'jsonb'),
    ('update_subscription', 'bigint, jsonb'),
    ('unsubscribe', 'bigint'),
    ('deliver_event', 'anyelement, text, boolean, uuid, jsonb'),
    ('deliver_event', 'text, text, boolean, uuid, jsonb'),
    ('retry', 'uuid, boolean'),
    ('retry_failed', 'bigint, timestamp with time zone, timestamp with time zone'),
    ('cancel', 'uuid'),
    ('wait_until_settled', 'interval'),
    ('attach', 'regclass, text, text, text, name[], jsonb'),
    ('detach', 'regclass, text'),
    ('countdown_preview', 'jsonb, integer'),
    ('prune', 'interval, bigint'),
    ('grant_access', 'regrole, text, text'),
    ('revoke_access', 'regrole, text, text'),
    ('reassign', 'text, regrole')
) AS f (name, arguments);
SELECT has_function('whisperer', 'deliver_event_trigger', '{}'::name[]);
SELECT has_function('whisperer', 'resume', '{}'::name[]);
SELECT has_function('whisperer', 'reset_statistics', '{}'::name[]);

-- Views and their columns, in order.
SELECT is((SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
           WHERE attrelid = to_regclass('whisperer.' || name) AND attnum > 0 AND NOT attisdropped),
          columns, format('columns of %s', name))
FROM (VALUES
    ('webhook_events', 'uuid subscription_id event_type target_url state delivered retry_count request_payload response_http_status response_content response_time error request_datetimes next_attempt_at created_date modified_date relation'),
    ('pending', 'uuid subscription_id event_type target_url state delivered retry_count request_payload response_http_status response_content response_time error request_datetimes next_attempt_at created_date modified_date relation'),
    ('failed', 'uuid subscription_id event_type target_url state delivered retry_count request_payload response_http_status response_content response_time error request_datetimes next_attempt_at created_date modified_date relation'),
    ('event_types', 'event_type owner serializer customizer description created_date'),
    ('subscriptions', 'id owner event_type target_url is_active inactive_reason has_secret auth_type callback retry_countdown_config additional_headers config created_date modified_date'),
    ('subscription_health', 'subscription_id event_type target_url is_active pending oldest_pending in_flight delivered_last_hour failed_last_hour consecutive_failures paused_until last_status last_error'),
    ('workers', 'pid database kind state started in_flight last_activity'),
    ('statistics', 'events deliveries attempts delivered failed cancelled callbacks callback_errors stats_reset')
) AS v (name, columns);

-- Every public object is described.
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = 'whisperer'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
$$, 'every function has a comment');
SELECT is_empty($$
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind = 'v' AND obj_description(c.oid, 'pg_class') IS NULL
$$, 'every view has a comment');
SELECT is_empty($$
    SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind = 'v' AND a.attnum > 0
      AND col_description(c.oid, a.attnum) IS NULL
$$, 'every column of a view has a comment');
SELECT isnt(obj_description('whisperer'::regnamespace, 'pg_namespace'), NULL, 'the schema has a comment');

-- Nobody but superusers may do anything yet.
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    WHERE p.pronamespace = 'whisperer'::regnamespace AND a.grantee = 0
      AND p.proname <> 'deliver_event_trigger'
$$, 'no function is open to the public');
SELECT is_empty($$
    SELECT c.relname FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
    WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p') AND a.grantee = 0
$$, 'no table or view is open to the public');
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = 'whisperer'::regnamespace AND (p.proisstrict OR p.prosecdef)
      AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Internal%'
$$, 'no public function is STRICT or SECURITY DEFINER');
SELECT is_empty($$
    SELECT conrelid::regclass, conname FROM pg_constraint
    WHERE connamespace = 'whisperer'::regnamespace AND contype = 'f'
$$, 'no foreign keys: their row locks burn multixacts');
SELECT is_empty($$
    SELECT attrelid::regclass, attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0
      AND a.atttypid::regtype::text LIKE 'reg%'
$$, 'no reg… columns: pg_upgrade and restores stumble over them');
SELECT is_empty($$
    SELECT c.oid::regclass FROM pg_class c
    WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind IN ('r', 'p') AND NOT CASE c.relreplident
        WHEN 'f' THEN true
        ELSE EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
                     AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END)
    END
$$, 'every table has a replica identity, or FOR ALL TABLES would forbid UPDATE and DELETE');
SELECT is((SELECT count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
           WHERE e.extname = 'whisperer' AND d.classid = 'pg_namespace'::regclass), 1::bigint,
          'the schema belongs to the extension');

-- Settings.
SELECT is((SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings WHERE name LIKE 'whisperer.%' AND context <> 'postmaster'),
          'whisperer.allowed_networks whisperer.ca_file whisperer.callback_timeout whisperer.enabled '
          'whisperer.max_attempts whisperer.max_in_flight whisperer.max_in_flight_per_subscription '
          'whisperer.max_payload_size whisperer.max_response_size whisperer.proxy whisperer.request_timeout '
          'whisperer.retention whisperer.safety_scan_interval whisperer.trigger_errors whisperer.workers',
          'the settings, no more and no fewer');
SELECT is_empty($$
    SELECT name FROM pg_settings WHERE name LIKE 'whisperer.%' AND (short_desc IS NULL OR short_desc NOT LIKE '_%.')
$$, 'each has a description, written as PostgreSQL writes them');
SELECT is((SELECT string_agg(name || '=' || context, ' ' ORDER BY name) FROM pg_settings
           WHERE name IN ('whisperer.enabled', 'whisperer.max_payload_size', 'whisperer.trigger_errors', 'whisperer.workers', 'whisperer.allowed_networks')),
          'whisperer.allowed_networks=sighup whisperer.enabled=superuser whisperer.max_payload_size=superuser '
          'whisperer.trigger_errors=superuser whisperer.workers=sighup', 'and who may set it');

SELECT * FROM finish();
ROLLBACK;
