# A role that may deliver, one that may subscribe, a monitor, and a writer with nothing: everything by which they might learn of
# others' payloads, secrets and uuids. And names of every kind in everything that takes a name.
use strict;
use warnings;

use JSON::XS ();
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => 'track_functions = all');
sub sql { return $node->safe_psql('postgres', $_[0]); }
# Everything that a role gets to see of a script, errors with all that psql knows of them and messages of every level included.
sub seen
{
	my ($role, $script) = @_;
	my (undef, $out, $errors) = $node->psql('postgres', "SET client_min_messages = debug5;\nSET ROLE $role;\n\\set VERBOSITY verbose\n\\set SHOW_CONTEXT always\n$script");
	return "$out\n$errors";
}

# ---- What there is to see: "MARKED" in payloads, bodies, answers, paths, header values, errors of functions, secrets
sql(q{
	CREATE ROLE victim; CREATE ROLE deliverer; CREATE ROLE subscriber; CREATE ROLE watcher; CREATE ROLE writer;
	SELECT whisperer.register_event_type('told'), whisperer.register_event_type('kept');
	SELECT whisperer.grant_access('victim', 'subscribe'), whisperer.grant_access('deliverer', 'deliver'), whisperer.grant_access('subscriber', 'subscribe', 'told'),
		whisperer.grant_access('watcher', 'monitor');
	CREATE SCHEMA probe; GRANT ALL ON SCHEMA probe TO deliverer, subscriber, watcher, writer; GRANT USAGE ON SCHEMA probe TO PUBLIC;
	CREATE TABLE public.hidden (name text); INSERT INTO public.hidden VALUES ('MARKED');
	CREATE TABLE public.parcel (id integer); GRANT INSERT, TRIGGER ON public.parcel TO deliverer, subscriber, watcher, writer;
	CREATE FUNCTION public.serializer(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
		BEGIN RETURN $1 || (SELECT jsonb_build_object('name', name) FROM public.hidden) || jsonb_build_object('const', 'MARKED'); END$$;
	CREATE FUNCTION public.customizer(jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT $1 || '{"custom": "MARKED"}'$$;
	CREATE FUNCTION public.callback(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE 'MARKED %', $3; END$$;
	SELECT whisperer.update_event_type('told', '{"serializer": "public.serializer"}'), whisperer.update_event_type('kept', '{"serializer": "public.serializer", "customizer": "public.customizer"}');
	SELECT whisperer.attach('public.parcel', 'told'), whisperer.attach('public.parcel', 'kept')});
$receiver->answer('/MARKED', { status => 500, body => 'MARKED' });
my $url = $receiver->url('/MARKED');
sql(qq{SET ROLE victim; SELECT whisperer.subscribe('$_', '$url', 'MARKED', 'public.callback', additional_headers => '{"X-Key": "MARKED"}',
	config => '{"auth": {"auth_type": "bearer", "token": "MARKED"}, "max_attempts": 1}')}) for qw(told kept);
sql('INSERT INTO public.parcel VALUES (1)');
$node->wait_settled;
$node->poll_until('postgres', 'SELECT count(*) = 2 FROM whisperer.function_failures');
sql(q{SELECT whisperer.update_subscription(id, '{"is_active": false}') FROM whisperer.subscriptions; UPDATE whisperer.subscription SET is_active = true;
	INSERT INTO whisperer.delivery (uuid, subscription_id, xid, event_type, payload, due) SELECT gen_random_uuid(), id, pg_current_xact_id(), event_type, '{"is": "MARKED"}', '2100-01-01' FROM whisperer.subscription;
	ANALYZE});
my ($failed, $pending) = map { sql("SELECT uuid FROM whisperer.$_ WHERE event_type = 'told'") } qw(failed pending);
my $id = sql("SELECT id FROM whisperer.subscriptions WHERE event_type = 'told'");
like(sql('TABLE whisperer.failed'), qr/MARKED/, 'there is something to see');

# ---- Probes: no answer, output or error has the mark, or a uuid that the role cannot know
my %probes = (
	'views' => join(';', map { "SELECT to_jsonb(v) FROM whisperer.$_ v" } qw(webhook_events pending failed subscriptions subscription_health function_failures event_types countdowns workers statistics)),
	'tables' => join(';', map { "SELECT * FROM whisperer.$_; SELECT t FROM whisperer.$_ t; COPY whisperer.$_ TO STDOUT" }
		qw(delivery history event subscription subscription_secret subscription_state job function_failure receiver_report access_grant home)),
	'columns' => 'SELECT payload FROM whisperer.delivery; SELECT body, response_content, reason FROM whisperer.history; SELECT target_url, additional_headers FROM whisperer.subscription; SELECT error FROM whisperer.function_failure;
		SELECT count(*) FROM whisperer.history WHERE payload LIKE $$%MARK%$$; SELECT 1 FROM whisperer.history ORDER BY payload; SELECT xmin, ctid, tableoid FROM whisperer.delivery',
	'functions of the views' => "SELECT whisperer.shown_body('pending', '$pending'), whisperer.shown_body('failed', '$failed'), whisperer.shown_response('failed', '$failed'), whisperer.shown_reason('$failed');
		SELECT whisperer.shown_url($id); SELECT whisperer.shown_headers($id); SELECT whisperer.shown_failure($id, '$failed', occurred) FROM whisperer.function_failures; SELECT * FROM whisperer.in_flight_list();
		SELECT whisperer.shown_failure($id, '$failed', t) FROM generate_series(now() - '1 minute'::interval, now(), '1 second') t",
	'a cheap function in WHERE' => 'CREATE FUNCTION probe.leak(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$BEGIN RAISE NOTICE $x$leak %$x$, $1; RETURN true; END$$;
		SELECT count(*) FROM whisperer.webhook_events WHERE probe.leak(uuid) AND probe.leak(error) AND probe.leak(request_payload); SELECT count(*) FROM whisperer.delivery d WHERE probe.leak(uuid);
		SELECT count(*) FROM whisperer.webhook_events WHERE (1 / (CASE WHEN uuid IS NULL THEN 0 ELSE 1 END)) = 1 AND probe.leak(target_url); SELECT count(*) FROM whisperer.subscriptions WHERE probe.leak(additional_headers)',
	'a cast that fails' => 'SELECT count(*) FROM whisperer.failed WHERE error::integer = 1; SELECT count(*) FROM whisperer.history WHERE event_type::xml IS NULL; SELECT uuid::text::integer FROM whisperer.delivery',
	'EXPLAIN' => 'EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT * FROM whisperer.webhook_events; EXPLAIN (VERBOSE) SELECT * FROM whisperer.history WHERE payload > $$M$$',
	'statistics of the planner' => 'SELECT * FROM pg_stats WHERE schemaname = $$whisperer$$; SELECT * FROM pg_stats_ext; SELECT * FROM pg_statistic; CREATE STATISTICS probe.s ON event_type, error FROM whisperer.history',
	'what others run' => 'SELECT * FROM pg_stat_activity; SELECT * FROM pg_prepared_statements; SELECT * FROM pg_cursors; SELECT * FROM pg_stat_user_functions; SELECT * FROM pg_locks; SELECT * FROM pg_settings WHERE name LIKE $$whisperer.%$$; SELECT * FROM pg_backend_memory_contexts',
	'files' => 'SELECT pg_read_file($$postgresql.auto.conf$$); SELECT pg_ls_dir($$pg_whisperer$$); SELECT pg_read_binary_file($$pg_whisperer/launcher$$); COPY probe.x FROM PROGRAM $$id$$',
	'sequences' => 'SELECT nextval($$whisperer.subscription_id_seq$$); SELECT currval($$whisperer.subscription_id_seq$$); SELECT lastval(); SELECT * FROM whisperer.subscription_id_seq; SELECT * FROM pg_sequences',
	'objects of its own on ours' => 'CREATE VIEW probe.v AS SELECT * FROM whisperer.webhook_events; TABLE probe.v; CREATE VIEW probe.w AS SELECT * FROM whisperer.delivery; TABLE probe.w; CREATE TABLE probe.i () INHERITS (whisperer.history); TABLE probe.i;
		CREATE TABLE probe.f (u uuid REFERENCES whisperer.history); CREATE MATERIALIZED VIEW probe.m AS TABLE whisperer.webhook_events; TABLE probe.m; CREATE INDEX ON whisperer.history (payload); CREATE TABLE probe.l (LIKE whisperer.history); TABLE probe.l;
		CREATE POLICY p ON whisperer.history USING (true); ALTER TABLE whisperer.history DISABLE ROW LEVEL SECURITY; CREATE RULE r AS ON INSERT TO whisperer.history DO ALSO NOTIFY x; ALTER FUNCTION whisperer.may_see(bigint) OWNER TO CURRENT_USER;
		CREATE OR REPLACE FUNCTION whisperer.may_see(bigint) RETURNS boolean LANGUAGE sql AS $$SELECT true$$; CREATE FUNCTION probe.t() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE $x$%$x$, NEW; RETURN NULL; END$$;
		CREATE TRIGGER t AFTER INSERT ON whisperer.history FOR EACH ROW EXECUTE FUNCTION probe.t(); CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION probe.t()',
	'row_security off' => 'SET row_security = off; SELECT * FROM whisperer.webhook_events; SELECT uuid FROM whisperer.delivery',
	'a definer\'s function' => 'CREATE FUNCTION probe.d() RETURNS SETOF whisperer.webhook_events LANGUAGE sql SECURITY DEFINER AS $$SELECT * FROM whisperer.webhook_events$$; SELECT * FROM probe.d(); RESET ROLE; SET ROLE deliverer; SELECT * FROM probe.d()',
	'prepared, then another role' => 'PREPARE p AS SELECT * FROM whisperer.webhook_events; EXECUTE p; SET ROLE deliverer; EXECUTE p; SET ROLE subscriber; EXECUTE p',
	'the planner\'s debug output' => 'SET debug_print_parse = on; SET debug_print_rewritten = on; SET debug_print_plan = on; SET debug_pretty_print = off; INSERT INTO public.parcel VALUES (2); SELECT whisperer.deliver_event($${}$$::jsonb, $$told$$); SET plan_cache_mode = force_custom_plan; INSERT INTO public.parcel VALUES (3)',
	'delivering' => 'INSERT INTO public.parcel VALUES (4); SELECT whisperer.deliver_event($${"id": 1}$$::jsonb, $$told$$, _async => false); SELECT whisperer.deliver_event($${"id": 1}$$, $$kept$$)',
	'its own trigger first' => 'CREATE FUNCTION probe.z() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE $x$% %$x$, NEW, TG_ARGV; RETURN NULL; END$$; CREATE TRIGGER zz AFTER INSERT ON public.parcel FOR EACH ROW EXECUTE FUNCTION probe.z(); INSERT INTO public.parcel VALUES (5)',
	'session state afterwards' => 'INSERT INTO public.parcel VALUES (6); SELECT current_setting(name) FROM pg_settings WHERE name LIKE $$whisperer%$$; SELECT * FROM pg_temp.pg_class; SELECT * FROM pg_stat_get_activity(pg_backend_pid()); SELECT * FROM pg_stat_xact_user_tables',
	'limits that end it in the middle' => 'SET statement_timeout = 1; SELECT whisperer.deliver_event($${"id": 1}$$::jsonb, $$told$$, _async => false); SET work_mem = 64; SET temp_file_limit = 0; SELECT * FROM whisperer.webhook_events',
);
my $marks = qr/MARKED|77 65 82 75 69 68|TUFSS0VE/i; # as text, as bytes in a plan, in base64
for my $what (sort keys %probes)
{
	for my $role (qw(writer deliverer subscriber watcher))
	{
		my $output = join "\n", grep { !/^LINE \d|^ *\^/ } split /\n/, seen($role, "BEGIN;\n\\set ON_ERROR_ROLLBACK on\n" . "$probes{$what};\nROLLBACK;");
		my ($hit) = $output =~ /(.{0,80}$marks.{0,40})/s;
		is($hit, undef, "$role, $what");
		# Monitors see uuids; others not even those.
		unlike($output, qr/$pending|$failed/, '... nor a uuid') if $role ne 'watcher' && $what !~ /functions of the views/;
	}
}
# The same statement typed by the role itself has the mark, if it is there to be shown: what the probes look for can be found.
like(seen('victim', $probes{views}), $marks, 'its owner sees it');
is(sql('SELECT count(*) > 10 FROM whisperer.delivery') . sql('SELECT relrowsecurity FROM pg_class WHERE oid = $$whisperer.history$$::regclass'), 'ft', 'nothing of the probes stays');

# ---- Somebody else's answers as unknown: to the last word, with detail, hint and context
my $unknown = '00000000-0000-4000-8000-000000000000';
for my $role (qw(deliverer subscriber))
{
	for my $call ("whisperer.retry('UUID')", "whisperer.retry('UUID', true)", "whisperer.cancel('UUID')", "whisperer.deliver_event(NULL::text, 'told', event_uuid => 'UUID')",
		"whisperer.deliver_event(NULL::text, 'told', false, 'UUID')", "whisperer.deliver_event(NULL::text, 'kept', true, 'UUID')", 'whisperer.unsubscribe(ID)', q{whisperer.update_subscription(ID, '{"event_type": "kept"}')},
		q{whisperer.update_subscription(ID, '{"callback": "public.callback"}')}, q{whisperer.update_subscription(ID, '{"retry_countdown_config": {"choice": "fixed", "kwargs": {"seconds": 1}}}')}, 'whisperer.retry_failed(ID)')
	{
		my ($theirs, $none) = map {
			my ($uuid, $number) = @$_;
			my $text = seen($role, 'SELECT ' . $call =~ s/UUID/$uuid/r =~ s/\bID\b/$number/r);
			$text =~ s/\Q$uuid\E/UUID/g;
			$text =~ s/\b$number\b/ID/g if $call =~ /\bID\b/;
			join "\n", grep { !/DEBUG|LOCATION/ } split /\n/, $text
		} [ $failed, $id ], [ $unknown, 999_999 ];
		$none =~ s/psql:\S+/psql/g;
		$theirs =~ s/psql:\S+/psql/g;
		is($theirs, $none, "$role: $call");
		like($none, qr/ERROR:  (?:WH00[13]|42501)/, '... an error');
	}
}
# What it raised itself for others it cannot handle either.
my $own = sql(q{SET ROLE deliverer; SELECT (whisperer.deliver_event('{}'::jsonb, 'told'))[1]});
like(seen('deliverer', "SELECT whisperer.deliver_event(NULL::text, 'told', event_uuid => '$own')"), qr/ERROR:  (?:WH003|42501)/, 'the deliverer got a uuid, and nothing by it');

# ---- A trigger for a type that is not granted cannot be had by replacing one for a type that is
sql(q{SELECT whisperer.grant_access('writer', 'deliver', 'told')});
my $create = q{CREATE OR REPLACE TRIGGER mine AFTER INSERT ON public.parcel FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger};
unlike(seen('writer', "$create('told')"), qr/ERROR/, 'a trigger that may be made');
like(seen('writer', "$create('kept')"), qr/ERROR:  42501/, 'is not replaced by one that may not');
sql(q{DROP TRIGGER mine ON public.parcel});

# ---- Names
my $wide = "\xF0\x9F\x90\x8C" x 15 . 'abc'; # 63 bytes; names are bytes here
my @names = ('say "quote"', "it's; DROP TABLE public.hidden; --", "new\nline", "tab\tand\\back\\slash", '$$ $1 %s %n {}', 'UPPER case', $wide, 'public.text', "\xE2\x80\xAEbidi \xC3\xA9", 'select');
my $number = 0;
for my $name (@names)
{
	$number++;
	my $path = "/name$number";
	my $label = $name =~ s/\n/\\n/r;
	my $quoted = '"' . ($name =~ s/"/""/gr) . '"';
	my $literal = "'" . ($name =~ s/'/''/gr) . "'";
	my $type = $name =~ s/[\n\t]|\xE2\x80\xAE/ /gr; # no control characters in event types
	my $type_literal = "'" . ($type =~ s/'/''/gr) . "'";
	my $both = "quote_ident($literal) || '.' || quote_ident($literal)";
	my $script = qq{
		CREATE ROLE $quoted;
		CREATE SCHEMA $quoted; GRANT USAGE ON SCHEMA $quoted TO PUBLIC;
		CREATE TABLE $quoted.$quoted ($quoted integer, plain integer);
		CREATE TABLE $quoted.called (event_type text, instance jsonb); GRANT ALL ON $quoted.called TO PUBLIC;
		CREATE FUNCTION $quoted.$quoted(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS \$f\$BEGIN INSERT INTO $quoted.called VALUES (\$2, \$3); END\$f\$;
		CREATE FUNCTION $quoted.$quoted($quoted.$quoted) RETURNS jsonb LANGUAGE sql AS \$f\$SELECT pg_catalog.to_jsonb(\$1)\$f\$;
		GRANT TRIGGER, INSERT, UPDATE ON $quoted.$quoted TO $quoted;
		SELECT whisperer.register_event_type($type_literal, $both, description => $literal);
		SELECT whisperer.grant_access(quote_ident($literal)::regrole, 'subscribe', $type_literal);
		SET ROLE $quoted;
		SELECT whisperer.subscribe($type_literal, '@{[$receiver->url($path)]}', $literal, $both, config => jsonb_build_object($literal, $literal));
		SELECT whisperer.attach(($both)::regclass, $type_literal, 'INSERT OR UPDATE', 'NEW.' || quote_ident($literal) || ' > 0', ARRAY[$literal]::name[], jsonb_build_object($literal, $literal));
		INSERT INTO $quoted.$quoted VALUES (1, 2); UPDATE $quoted.$quoted SET plain = 3; RESET ROLE; UPDATE $quoted.$quoted SET $quoted = 4;
	};
	my (undef, undef, $errors) = $node->psql('postgres', $script, on_error_stop => 1);
	is($errors, '', "$label: all is done") or next;
	my @bodies = sort map { JSON::XS->new->decode($_->{body})->{payload}{$name} // 'none' } $receiver->await($path, 2);
	is("@bodies", '1 4', '... and sent');
	$node->poll_until('postgres', "SELECT count(*) FROM $quoted.called WHERE event_type = $type_literal AND instance ? $literal", '2');
	is(sql("SELECT string_agg(DISTINCT concat_ws('|', relation = ($both)::regclass, event_type), ';') FROM whisperer.webhook_events WHERE event_type = $type_literal"), "t|$type", '... and seen');
	(undef, undef, $errors) = $node->psql('postgres', qq{
		SET client_min_messages = warning;
		SELECT whisperer.detach(($both)::regclass, $type_literal);
		SELECT whisperer.reassign($literal, 'postgres'); SELECT whisperer.revoke_access(quote_ident($literal)::regrole, 'subscribe', $type_literal);
		SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions WHERE event_type = $type_literal;
		SELECT whisperer.unregister_event_type($type_literal); DROP SCHEMA $quoted CASCADE; DROP ROLE $quoted}, on_error_stop => 1);
	is($errors, '', '... and taken away, with nothing left that holds it');
}
is(sql('SELECT count(*) FROM public.hidden'), '1', 'nothing in a name was executed');
is(state("SELECT whisperer.register_event_type(E'a\\nb')"), '22023', 'an event type with a line break');
sub state { my (undef, undef, $errors) = $node->psql('postgres', "\\set VERBOSITY sqlstate\n$_[0]"); return $errors =~ /ERROR:  (\w{5})/ ? $1 : ''; }

$node->stop;
done_testing();
