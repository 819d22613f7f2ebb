# What a caller, a role or a database can put in the way of whisperer's own SQL: every operator and function of PostgreSQL's
# shadowed in a schema that search_path names first, tables and types shadowed in pg_temp, settings that change what a
# statement means, privileges given before the extension is there, PostgreSQL's roles that read or write everything.
# Whatever of the attacker's runs leaves a row in evil.loot.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
$node->init(settings => 'whisperer.trigger_errors = error');
$node->start;
# The judge's own statements are not to be shadowed.
sub sql { return $node->safe_psql('postgres', "SET search_path = pg_catalog, public; $_[0]"); }
sub loot { return sql("SELECT string_agg(DISTINCT what || ' as ' || who, ', ') FROM evil.loot"); }

# ---- ALTER DEFAULT PRIVILEGES, before
sql('CREATE ROLE app; CREATE ROLE reader; CREATE ROLE meddler; GRANT pg_read_all_data TO reader; GRANT pg_read_all_data, pg_write_all_data TO meddler');
my @kinds = qw(TABLES SEQUENCES ROUTINES SCHEMAS);
sql("ALTER DEFAULT PRIVILEGES GRANT ALL ON $_ TO app") for @kinds;
$node->create_whisperer('postgres');
is(sql(q{CREATE TABLE public.control (); SELECT has_table_privilege('app', 'public.control', 'TRIGGER')}), 't', 'whoever has default privileges has them on tables');
is(sql(q{
	SELECT count(*) FROM (SELECT nspacl AS acl FROM pg_namespace WHERE nspname = 'whisperer' UNION ALL SELECT relacl FROM pg_class WHERE relnamespace = 'whisperer'::regnamespace
		UNION ALL SELECT proacl FROM pg_proc WHERE pronamespace = 'whisperer'::regnamespace) a, aclexplode(acl) WHERE grantee = 'app'::regrole}), '0', 'but nothing of whisperer\'s');
sql("ALTER DEFAULT PRIVILEGES REVOKE ALL ON $_ FROM app") for @kinds;

# ---- pg_read_all_data, pg_write_all_data
$receiver->answer('/fails', { status => 500, body => 'MARKED answer' });
sql(qq{
	SELECT whisperer.register_event_type('shadow');
	SELECT whisperer.subscribe('shadow', '@{[$receiver->url('/fails')]}?MARKED', 'MARKED secret', config => '{"max_attempts": 1}'),
		whisperer.subscribe('shadow', '@{[$receiver->url('/also')]}?MARKED', additional_headers => '{"X-Key": "MARKED"}');
	SELECT whisperer.deliver_event('{"is": "MARKED"}'::jsonb, 'shadow')});
$node->wait_settled;
for my $table (split /\n/, sql(q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'whisperer'::regnamespace AND relkind = 'r' ORDER BY 1}))
{
	my (undef, $seen) = $node->psql('postgres', "SET ROLE reader; SELECT to_jsonb(t) FROM $table t");
	unlike($seen, qr/MARKED|admin/, "pg_read_all_data: $table");
	my (undef, $gone, $errors) = $node->psql('postgres', "SET ROLE meddler; WITH gone AS (DELETE FROM $table RETURNING 1) SELECT count(*) FROM gone;
		\\set VERBOSITY sqlstate\nINSERT INTO $table DEFAULT VALUES");
	like("$gone $errors", qr/^0 psql:\S* ERROR:  42501$/, "pg_write_all_data: $table");
}

# ---- Shadows
sql(q{
	CREATE ROLE mallory; CREATE ROLE boss; SELECT whisperer.grant_access('boss', 'admin');
	CREATE SCHEMA evil AUTHORIZATION mallory; GRANT USAGE ON SCHEMA evil TO PUBLIC;
	CREATE TABLE evil.loot (who text, what text); GRANT ALL ON evil.loot TO PUBLIC;
	CREATE SCHEMA good; GRANT USAGE ON SCHEMA good TO PUBLIC;
	CREATE TABLE good.called (who text, what text); GRANT ALL ON good.called TO PUBLIC;
	CREATE FUNCTION good.callback(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO good.called VALUES (current_user, $2)';
	CREATE FUNCTION good.countdown(integer, jsonb) RETURNS integer LANGUAGE sql AS 'SELECT 0';
	CREATE FUNCTION good.validator(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
	CREATE FUNCTION good.serializer(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT pg_catalog.jsonb_build_object('told', $1)$$;
	GRANT CREATE ON SCHEMA public TO boss});
my $shadow_count = sql(<<'SQL');
SET ROLE mallory;
CREATE FUNCTION evil.note(text) RETURNS void LANGUAGE sql AS 'INSERT INTO evil.loot VALUES (current_user, $1)';
DO $do$
DECLARE
	types oid[] := '{text,int4,int8,uuid,jsonb,oid,timestamptz,interval,xid8,name,bool,"char",float8,numeric,bytea,regclass,regproc,"text[]","uuid[]","int8[]"}'::regtype[]::oid[];
	found record;
	made integer := 0;
BEGIN
	FOR found IN
		SELECT p.oid, p.proname, pg_get_function_identity_arguments(p.oid) AS arguments, format_type(p.prorettype, NULL) AS result, o.oprname, o.oprleft, o.oprright
		FROM pg_proc p LEFT JOIN pg_operator o ON o.oprcode = p.oid
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset AND p.pronargs <= 4 AND p.proallargtypes IS NULL
			AND (SELECT typtype FROM pg_type WHERE oid = p.prorettype) = 'b' AND p.proargtypes::oid[] <@ types
	LOOP
		made := made + 1;
		EXECUTE format('CREATE OR REPLACE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', found.proname, found.arguments, found.result,
			format('BEGIN PERFORM evil.note(%L); RETURN NULL; END', found.proname));
		CONTINUE WHEN found.oprname IS NULL OR found.oprleft = 0 OR found.oprname = '=>';
		EXECUTE format('CREATE OPERATOR evil.%s (FUNCTION = evil.%I, LEFTARG = %s, RIGHTARG = %s)', found.oprname, found.proname,
			found.oprleft::regtype, found.oprright::regtype);
	END LOOP;
	CREATE FUNCTION evil.step(bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note($$count$$); RETURN $1 + 1; END';
	CREATE AGGREGATE evil.count(*) (SFUNC = evil.step, STYPE = bigint, INITCOND = 0);
	CREATE FUNCTION evil.step(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note($$min$$); RETURN $2; END';
	CREATE AGGREGATE evil.min(bigint) (SFUNC = evil.step, STYPE = bigint);
	CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note($$unnest$$); END';
	CREATE FUNCTION evil.to_jsonb(anyelement) RETURNS jsonb LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note($$to_jsonb$$); END';
	CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note($$format$$); END';
	RAISE NOTICE 'made %', made;
END $do$;
RESET ROLE;
SELECT count(*) FROM pg_proc WHERE pronamespace = 'evil'::regnamespace;
SQL
note "$shadow_count shadows";
cmp_ok($shadow_count, '>=', 1000, 'so many shadows');
$node->psql('postgres', q{SET search_path = evil, public, pg_catalog; SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text, now(), count(*), '{}'::pg_catalog.jsonb -> 'a'::pg_catalog.text});
is(loot(), 'count as postgres, int84pl as postgres, jsonb_object_field as postgres, now as postgres, texteq as postgres', 'they are found, and tell');

# All that is to be called. Nothing in it but whisperer's functions may be shadowed: what the caller writes is the caller's.
sub calls
{
	my $name = shift;
	my $url = $receiver->url("/$name");
	return qq{
CREATE TABLE public.parcel_$name (id pg_catalog.int4, made pg_catalog.timestamptz, what pg_catalog.jsonb, tags pg_catalog.text[]);
SELECT whisperer.register_event_type('$name', 'good.serializer', description => 'described');
SELECT whisperer.update_event_type('$name', '{"description": null, "customizer": "good.validator"}');
SELECT whisperer.register_countdown('$name', 'good.countdown', 'good.validator');
SELECT whisperer.countdown_preview('{"choice": "$name", "kwargs": {"a": 1}}', 2);
SELECT whisperer.subscribe('$name', '$url', 'secret', 'good.callback', '{"choice": "$name", "kwargs": {}}', '{"X-A": "b"}', '{"k": 1}') AS first \\gset
SELECT whisperer.subscribe('{"event_type": "$name", "target_url": "$url/2"}') AS second \\gset
SELECT whisperer.update_subscription(:second, '{"config": {"max_attempts": 1, "k": 1}, "secret_key": "other"}');
SELECT whisperer.attach('public.parcel_$name', '$name', 'INSERT OR UPDATE OR DELETE', 'true', '{what}', '{"k": 1}');
INSERT INTO public.parcel_$name VALUES (1, '2026-01-01', '{"a": 1}', '{x,y}');
UPDATE public.parcel_$name SET what = '{"a": 2}';
DELETE FROM public.parcel_$name;
BEGIN;
SELECT (whisperer.deliver_event('{"a": 1}'::pg_catalog.jsonb, '$name'))[1] AS pending \\gset
SELECT whisperer.cancel(:'pending');
SELECT whisperer.retry(:'pending');
COMMIT;
SELECT whisperer.deliver_event('{"a": 1}', '$name', _async => false, config_filter => '{"k": 1}');
SELECT whisperer.wait_until_settled('60 s');
SELECT whisperer.retry_failed();
TABLE whisperer.webhook_events; TABLE whisperer.pending; TABLE whisperer.failed; TABLE whisperer.subscriptions; TABLE whisperer.event_types;
TABLE whisperer.subscription_health; TABLE whisperer.function_failures; TABLE whisperer.countdowns; TABLE whisperer.workers; TABLE whisperer.statistics;
SELECT * FROM whisperer.webhook_events ORDER BY created_date DESC LIMIT 3;
SELECT whisperer.detach('public.parcel_$name', '$name');
SELECT whisperer.unsubscribe(:first), whisperer.unsubscribe(:second);
SELECT whisperer.unregister_countdown('$name');
SELECT whisperer.unregister_event_type('$name');
SELECT whisperer.grant_access('app', 'subscribe'), whisperer.revoke_access('app', 'subscribe');
SELECT whisperer.reassign('app', 'app');
SELECT whisperer.prune('1 week');
SELECT whisperer.reset_statistics();
SELECT whisperer.renew_privileges();
SELECT whisperer.resume();
};
}
my $all = calls('every');
unlike(join(' ', grep { $all !~ /whisperer\.$_\(/ } split /\n/, sql(q{
	SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'whisperer'::regnamespace AND obj_description(oid, 'pg_proc') NOT LIKE 'Internal%'
		AND proname NOT IN ('deliver_event_trigger', 'home_changed', 'owner_name', 'owner_is_gone', 'relation_of', 'in_flight_list')})), qr/./, 'no function is left out');
unlike(join(' ', grep { $all !~ /whisperer\.$_\b/ } split /\n/, sql(q{SELECT relname FROM pg_class WHERE relnamespace = 'whisperer'::regnamespace AND relkind = 'v'})),
	qr/./, 'nor a view');

my $hostile = 'evil, public, pg_catalog';
my $temporary = join '', map { "CREATE TEMP TABLE $_ (id pg_catalog.int4);\n" }
  qw(subscription delivery history event event_type_entry pg_class pg_proc pg_trigger pg_roles text jsonb uuid int8 regclass regproc regprocedure regnamespace regrole "timestamptz" xid8);
my $as_called = sub {
	my ($what, $name, $prologue) = @_;
	sql('TRUNCATE evil.loot, good.called');
	my (undef, undef, $errors) = $node->psql('postgres', "\\set ON_ERROR_STOP 1\n$prologue" . calls($name));
	is($errors, '', "$what: all goes well");
	is(loot(), '', '... and nothing of the attacker\'s runs');
	like(($receiver->await("/$name", 1))[0]{body}, qr/"told": \{/, '... nor is the event another');
	$node->poll_until('postgres', "SET search_path = pg_catalog; SELECT count(*) > 0 FROM good.called WHERE what = '$name'");
};
$as_called->('search_path of the caller', 'superuser', "SET search_path = $hostile;\n");
$as_called->('of an admin', 'admin', "SET ROLE boss; SET search_path = $hostile;\n");
$as_called->('tables and types in pg_temp', 'temporary', "SET client_min_messages = error; SET search_path = pg_catalog; $temporary SET search_path = pg_temp, $hostile;\n");
sql("ALTER ROLE postgres SET search_path = $hostile");
$as_called->('search_path of the role', 'role', '');
sql('ALTER ROLE postgres RESET search_path');

# ---- In a function with a search_path of its own, and in one of a SQL body
sql(q{SELECT whisperer.register_event_type('within'); CREATE TABLE public.within (id integer); SELECT whisperer.attach('public.within', 'within')});
sql("SELECT whisperer.subscribe('within', '" . $receiver->url('/within') . "')");
sql("TRUNCATE evil.loot; CREATE FUNCTION good.within() RETURNS void LANGUAGE plpgsql SET search_path = $hostile AS \$\$BEGIN
	INSERT INTO public.within VALUES (1); PERFORM whisperer.deliver_event('{\"id\": 2}', 'within'); PERFORM * FROM whisperer.webhook_events; END\$\$;
	SELECT good.within()");
$receiver->await('/within', 2);
is(loot(), '', 'search_path of a function');

# ---- Of the database, whisperer's processes included; and settings that change what a statement means
my %settings = (search_path => $hostile, standard_conforming_strings => 'off', array_nulls => 'off', quote_all_identifiers => 'on',
	transform_null_equals => 'on', row_security => 'off', IntervalStyle => 'sql_standard', DateStyle => 'German, DMY', bytea_output => 'escape',
	extra_float_digits => -15, TimeZone => "'<+05:45>-05:45'", default_transaction_isolation => 'serializable', default_transaction_deferrable => 'on',
	plan_cache_mode => 'force_generic_plan', lc_numeric => "'C.UTF-8'", xmloption => 'document', check_function_bodies => 'off', enable_indexscan => 'off',
	enable_bitmapscan => 'off', escape_string_warning => 'on', backslash_quote => 'on', default_toast_compression => 'pglz', jit_above_cost => 0);
sql(join '', map { "ALTER DATABASE postgres SET $_ = $settings{$_};" } sort keys %settings);
$node->restart;
is($node->safe_psql('postgres', 'SHOW search_path'), $hostile, 'every setting of the database is hostile');
$receiver->answer('/database', { status => 500 }, { status => 200 });
$as_called->('in every process', 'database', '');
is(sql(q{SELECT string_agg(DISTINCT sqlstate || error, ' ') FROM whisperer.function_failures}), '', 'callbacks and countdowns, too');
unlike($node->log_since(0), qr/(?:ERROR|FATAL|PANIC):  (?!permission denied|new row violates|canceling|terminating)/, 'nothing went wrong unseen');

$node->stop;
done_testing();
