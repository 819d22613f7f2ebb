# Callbacks: called after every attempt, as the owner, in processes of their own; and what goes wrong in them harms nothing.
use strict;
use warnings;

use File::Spec;
use FindBin;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "whisperer.callback_timeout = 600s\nwhisperer.retention = 0");

sub sql { return $node->safe_psql('postgres', $_[0]); }

$node->safe_psql('postgres', q{
	CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE carol;
	CREATE SCHEMA app;
	GRANT USAGE ON SCHEMA app TO PUBLIC;
	CREATE TABLE app.called (id bigserial, role text, response jsonb, event_type text, instance jsonb, payload jsonb, at timestamptz DEFAULT clock_timestamp());
	CREATE INDEX ON app.called (role);
	GRANT INSERT, SELECT ON app.called TO PUBLIC;
	GRANT USAGE ON SEQUENCE app.called_id_seq TO PUBLIC;
	CREATE FUNCTION app.note(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		'INSERT INTO app.called (role, response, event_type, instance, payload) VALUES (current_user, $1, $2, $3, $4)';
});

sub set_timeout
{
	my ($time) = @_;
	sql("ALTER SYSTEM SET whisperer.callback_timeout = '$time'");
	sql('SELECT pg_reload_conf()');
	$node->poll_until('postgres', 'SHOW whisperer.callback_timeout', $time);
	return;
}

# As the role, a subscription to an event type of its own; returns its id.  Grants are another test's affair.
sub subscribe
{
	my ($role, $type, $path, $callback, $config) = @_;
	sql("SELECT whisperer.register_event_type('$type') WHERE NOT EXISTS (SELECT FROM whisperer.event_types WHERE event_type = '$type')");
	my $id = sql("SELECT whisperer.subscribe(jsonb_build_object('event_type', '$type', 'target_url', '" . $receiver->url($path) . "',
		'callback', '$callback', 'retry_countdown_config', jsonb_build_object('choice', 'fixed', 'kwargs', jsonb_build_object('seconds', 0.1))) || '@{[ $config // '{}' ]}')");
	sql("UPDATE whisperer.subscription SET owner_oid = '$role'::regrole, owner_name = '$role',
		change_xid = pg_current_xact_id() WHERE id = $id") if $role ne 'postgres';
	return $id;
}
sub deliver { my ($type, $json) = @_; return sql("SELECT (whisperer.deliver_event('$json'::jsonb, '$type'))[1]"); }
sub called { my ($count, $where) = @_; $node->poll_until('postgres', "SELECT count(*) >= $count FROM app.called WHERE $where"); return; }
sub failed { my ($count, $id) = @_; $node->poll_until('postgres', "SELECT count(*) >= $count FROM whisperer.function_failures WHERE subscription_id = $id"); return; }

# parity row 24: after every attempt, with response, event type, instance and payload; the instance on every one.
{
	$receiver->answer('/every', { status => 500, headers => [ [ 'X-Twice', 'a' ], [ 'X-Twice', 'b' ] ], body => 'not now' }, { status => 201, body => 'thanks' });
	my $id = subscribe('alice', 'every', '/every', 'app.note');
	my $uuid = deliver('every', '{"n": 1}');
	called(2, "event_type = 'every'");
	is(sql(q{SELECT string_agg(concat_ws('|', role, response->>'status', response->>'body', response->>'attempt', response->>'delivered',
			response->'headers'->>'x-twice', response->>'event_uuid' = } . "'$uuid'" . q{, instance, payload->'payload', payload->'event'->>'type',
			(response->>'elapsed_ms')::float8 > 0, response->>'error'), ';' ORDER BY id) FROM app.called WHERE event_type = 'every'}),
		'alice|500|not now|1|false|a, b|t|{"n": 1}|{"n": 1}|every|t|the receiver answered with status 500;'
		. 'alice|201|thanks|2|true|t|{"n": 1}|{"n": 1}|every|t',
		'parity row 24: a callback after each attempt, as the owner, with response, type, instance and payload');
	is(sql(q{SELECT string_agg(DISTINCT (SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(response) k), ';') FROM app.called WHERE event_type = 'every'}),
		'attempt body delivered elapsed_ms error event_uuid headers status', '... and nothing else in the response');
	$node->wait_settled;
	$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.job', '0');
	is(sql(q{SELECT count(*) FROM app.called WHERE event_type = 'every'}), '2', '... and no more calls');
}

# No response at all.
{
	$receiver->refusing_port('closed');
	my $url = $receiver->url('/', port => 'closed');
	my $id = subscribe('alice', 'refused', '/refused', 'app.note', qq({"target_url": "$url", "config": {"max_attempts": 1}}));
	deliver('refused', '{}');
	called(1, "event_type = 'refused'");
	is(sql(q{SELECT response->'status', response->'headers', response->'body', response->>'error' ILIKE '%connect%', response->'delivered' FROM app.called WHERE event_type = 'refused'}),
		'null|{}|null|t|false', 'without a response: status and body null, and the error');
}

# Counted when they are done, a moment after that can be seen.
$node->poll_until('postgres', 'SELECT callbacks, callback_errors FROM whisperer.statistics', '3|0');
pass('statistics count the calls');

# What goes wrong in a callback is recorded and harms nothing; it runs as its owner, restricted (parity row 25).
$node->safe_psql('postgres', q{
	CREATE FUNCTION app.raises(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO app.called (role) VALUES ('from raises'); RAISE EXCEPTION 'no thanks'; END $$;
	CREATE FUNCTION app.sleeps(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(600)'; -- tested: sleeps
	CREATE FUNCTION app.loops(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN LOOP END LOOP; END $$;
	CREATE FUNCTION app.swallows(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$; -- tested: sleeps
	CREATE FUNCTION app.late(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO app.called (role) VALUES ('from late');
		   BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END $$; -- tested: sleeps
	CREATE FUNCTION app.locks(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS
		'SELECT pg_advisory_lock(4711); INSERT INTO app.called (role) VALUES (''from locks'')';
	CREATE FUNCTION app.dropped(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS 'SELECT 1';
	CREATE TABLE app.parent (id int PRIMARY KEY);
	INSERT INTO app.parent VALUES (1);
	CREATE TABLE app.child (id int REFERENCES app.parent DEFERRABLE INITIALLY DEFERRED);
	GRANT INSERT ON app.child TO PUBLIC;
	CREATE FUNCTION app.defers(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS
		'INSERT INTO app.child VALUES (($3->>''n'')::int); INSERT INTO app.called (role) VALUES (''from defers'')';
	CREATE TABLE app.private (x int);
	CREATE FUNCTION app.oversteps(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO app.private VALUES (1)';
});
my %expected = (
	raises => 'P0001|no thanks',
	sleeps => '57014|took longer than whisperer.callback_timeout (2 s)',
	loops => '57014|took longer than whisperer.callback_timeout (2 s)',
	late => '57014|took longer than whisperer.callback_timeout (2 s)',
	swallows => '57014|took longer than twice whisperer.callback_timeout (2 s) and ignored its cancellation; its process was ended',
	dropped => q{42883|callback: function app.dropped(jsonb, text, jsonb, jsonb) does not exist (It was there when it was named, and has been dropped or renamed since.)},
	oversteps => '42501|permission denied for table private');
my $position = $node->log_position;
my %id;
$id{$_} = subscribe('alice', $_, "/$_", "app.$_") for sort keys %expected;
sql('DROP FUNCTION app.dropped(jsonb, text, jsonb, jsonb)');
# Those that are too late have a limit; the others fail by themselves, however slow the machine is.
my @late = grep { $expected{$_} =~ /callback_timeout/ } sort keys %expected;
my @others = grep { $expected{$_} !~ /callback_timeout/ } sort keys %expected;
deliver($_, '{"n": 1}') for @others;
failed(1, $id{$_}) for @others;
set_timeout('2s');
deliver($_, '{"n": 1}') for @late;
failed(1, $id{$_}) for @late;
set_timeout('10min');
for my $name (sort keys %expected)
{
	is(sql("SELECT string_agg(sqlstate || '|' || error, ';') FROM whisperer.function_failures WHERE subscription_id = $id{$name} AND kind = 'callback'"),
		$expected{$name}, "$name: recorded, once");
}
is(sql("SELECT count(*) FROM whisperer.webhook_events e WHERE delivered AND retry_count = 1 AND event_type = ANY ('{" . join(',', keys %expected) . "}')"),
	scalar(keys %expected), '... and every delivery was made, once');
is(sql(q{SELECT count(*) FROM app.called WHERE role IN ('from raises', 'from late')}), '0', 'a call that failed or was too late leaves nothing behind');
$node->poll_until('postgres', 'SELECT callback_errors FROM whisperer.statistics', scalar(keys %expected));
pass('statistics count them');
my $log = $node->log_since($position);
is(scalar(() = $log =~ /a callback of subscription $id{raises} went wrong: no thanks/g), 1, 'and the log says it');
deliver('raises', '{"n": 2}');
failed(2, $id{raises});
$log = $node->log_since($position);
is(scalar(() = $log =~ /a callback of subscription $id{raises} went wrong/g), 1, '... but not the same again');

# Who is in such a function, asleep or not.
my $gated = q{FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 60};

# The time in which its process is stopped is not a call's.
{
	sql(q{CREATE TABLE app.lamp (lit boolean); INSERT INTO app.lamp VALUES (false); GRANT SELECT ON app.lamp TO PUBLIC;
		CREATE FUNCTION app.by_light(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
			$$ BEGIN
			   PERFORM pg_advisory_xact_lock_shared(60);
			   WHILE NOT (SELECT lit FROM app.lamp) LOOP PERFORM pg_sleep(0.02); END LOOP; -- tested: sleeps
			   INSERT INTO app.called (role) VALUES ('by light'); END $$});
	my $id = subscribe('alice', 'stopped', '/stopped', 'app.by_light');
	set_timeout('20s');
	deliver('stopped', '{}');
	$node->poll_until('postgres', "SELECT count(*) $gated", '1');
	my $pid = sql("SELECT pid $gated");
	kill 'STOP', $pid or die "kill: $!";
	$node->let_pass(41);
	sql('UPDATE app.lamp SET lit = true');
	kill 'CONT', $pid or die "kill: $!";
	$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.job', '0');
	is(sql("SELECT (SELECT count(*) FROM app.called WHERE role = 'by light') || '|' ||
			coalesce((SELECT string_agg(error, ';') FROM whisperer.function_failures WHERE subscription_id = $id), '')"), '1|',
		'a process that was stopped for twice what a call may take: the call is made, and not too late');
	set_timeout('10min');
}

# One that was too late is not made again because its process was to leave before it ended.
{
	sql(q{CREATE FUNCTION app.twice(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN RAISE LOG 'cancelled once'; END; -- tested: sleeps
		   PERFORM pg_sleep(600); END $$}); # tested: sleeps
	my $id = subscribe('alice', 'twice', '/twice', 'app.twice');
	my $begun = $node->log_position;
	set_timeout('20s'); # as long again for it to hear that it is to leave
	deliver('twice', '{}');
	$node->wait_for_log(qr/cancelled once/, $begun);
	sql('ALTER SYSTEM SET whisperer.workers = 2; SELECT pg_reload_conf()');
	failed(1, $id);
	is(sql("SELECT string_agg(error, ';') FROM whisperer.function_failures WHERE subscription_id = $id"),
		'took longer than whisperer.callback_timeout (20 s)', 'too late, and then to leave: it was too late');
	# Both changes of the set are over then: neither stops a later call.
	$node->delivery_pids('postgres', 2);
	sql('ALTER SYSTEM RESET whisperer.workers');
	set_timeout('10min');
	$node->delivery_pids('postgres');
}

# Deferrable foreign keys (Django's are all of that kind), and advisory locks.
subscribe('alice', 'defers', '/defers', 'app.defers');
deliver('defers', '{"n": 1}');
called(1, "role = 'from defers'");
is(sql('SELECT count(*) FROM app.child'), '1', 'a callback writes to a table with a deferrable foreign key');
my $locks = subscribe('alice', 'locks', '/locks', 'app.locks');
deliver('locks', '{}');
called(1, "role = 'from locks'");
$node->poll_until('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}, '0');
pass('its session-level advisory lock does not outlive the call');

# One owner's slow callbacks do not hold up another's.
{
	my $slow = subscribe('bob', 'slow', '/slow', 'app.sleeps');
	sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'slow') FROM generate_series(1, 20)});
	$node->poll_until('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'whisperer callback' AND wait_event = 'PgSleep'}, '1');
	subscribe('carol', 'quick', '/quick', 'app.note');
	my $start = time();
	sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'quick') FROM generate_series(1, 50)});
	called(50, "event_type = 'quick'");
	cmp_ok(time() - $start, '<', 50, 'one owner sleeps, the other is served');
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'whisperer callback' AND wait_event = 'PgSleep'}), '1', '... and the one who sleeps has one process');
	$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'slow' AND delivered}, '20');
	pass('... whose deliveries are all made');

	# A change that stops the processes of the database waits for no callback; the call is made again.
	$position = $node->log_position;
	sql(q{ALTER SYSTEM SET whisperer.workers = 2});
	sql('SELECT pg_reload_conf()');
	$node->delivery_pids('postgres', 2);
	$node->poll_until('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'whisperer callback' AND wait_event = 'PgSleep'}, '1');
	pass('a callback under way does not hold up a change of the set of workers, and is called again');
	is(sql("SELECT count(*) FROM whisperer.function_failures WHERE subscription_id = $slow"), '0', '... which is no failure');
	sql("SELECT whisperer.update_subscription($slow, '{\"callback\": null}')");
	# The calls that wait come to nothing then.
	$node->poll_until('postgres', q{SELECT (SELECT count(*) FROM whisperer.job) + (SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
		WHERE backend_type = 'whisperer callback' AND wait_event = 'PgSleep')}, '0');
}

# A crash while a callback runs: it is called again, and those that waited are not lost.
{
	sql(q{CREATE TABLE app.gate (open boolean); INSERT INTO app.gate VALUES (false); GRANT SELECT ON app.gate TO PUBLIC});
	sql(q{CREATE FUNCTION app.gated(response jsonb, text, instance jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN
		   PERFORM pg_advisory_xact_lock_shared(60);
		   WHILE NOT (SELECT open FROM app.gate) LOOP PERFORM pg_sleep(0.02); END LOOP; -- tested: sleeps
		   INSERT INTO app.called (role, instance) VALUES ('gated', instance); END $$});
	subscribe('alice', 'gated', '/gated', 'app.gated');
	sql(q{SELECT whisperer.deliver_event(jsonb_build_object('n', n), 'gated') FROM generate_series(1, 5) n});
	$node->poll_until('postgres', "SELECT count(*) $gated", '1');
	$node->wait_settled;
	$node->crash_and_start;
	sql('UPDATE app.gate SET open = true');
	called(5, "role = 'gated'");
	is(sql(q{SELECT string_agg(instance->>'n', ',' ORDER BY instance->>'n') FROM app.called WHERE role = 'gated'}), '1,2,3,4,5', 'after a crash every callback is called, and none that was done is done again');
	# That a call was made need not have been on disk at the crash: others may be gone over again.
	$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.job', '0');
	pass('and nothing is left to do');
}

# A database can be dropped while a callback runs in it that does not want to end.
{
	sql('CREATE DATABASE other');
	$node->create_whisperer('other');
	$node->safe_psql('other', q{
		CREATE FUNCTION public.swallows(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
			$$ BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$; -- tested: sleeps
		SELECT whisperer.register_event_type('other')});
	$node->safe_psql('other', "SELECT whisperer.subscribe('other', '" . $receiver->url('/other') . "', callback => 'swallows')");
	$node->safe_psql('other', q{SELECT whisperer.deliver_event('{}'::jsonb, 'other')});
	$node->poll_until('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'whisperer callback' AND datname = 'other' AND wait_event = 'PgSleep'}, '1');
	my $start = time();
	sql('DROP DATABASE other');
	cmp_ok(time() - $start, '<', 30, 'a callback that swallows its cancellation does not keep a database from being dropped');
}

sub end_and_start { my ($end) = @_; $end->(); return $node->start_again; }
# That of a process crashes the server.
sub kill_and_start { my ($pid) = @_; return end_and_start(sub { kill 'KILL', $pid or die "no process $pid" }); }

sub given_up
{
	my ($uuid, $name) = @_;
	my $error = "SELECT string_agg(error, ';') FROM whisperer.function_failures WHERE uuid = '$uuid'";
	$node->poll_until('postgres', "SELECT ($error) IS NOT NULL");
	return is(sql($error), 'given up: no process that tried the call survived it, several times', $name);
}

# Until a call is made that waits for the gate; false: it has been given up.
sub is_called
{
	my ($uuid) = @_;
	my $failures = "FROM whisperer.function_failures WHERE uuid = '$uuid'";
	$node->poll_until('postgres', "SELECT EXISTS (SELECT $gated) OR EXISTS (SELECT $failures)");
	return sql("SELECT count(*) $failures") eq '0';
}

# That others end the process in which a call is made is hardly held against the call: a crash weighs 4 of 12, such an end 1.
{
	sql(q{CREATE FUNCTION app.deaf(response jsonb, text, instance jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
			$$ BEGIN
			   LOOP -- whatever the cancellation finds it doing
			     BEGIN
			       PERFORM pg_advisory_xact_lock_shared(60);
			       WHILE NOT (SELECT open FROM app.gate) LOOP PERFORM pg_sleep(0.02); END LOOP; -- tested: sleeps
			       EXIT;
			     EXCEPTION WHEN query_canceled THEN NULL; END;
			   END LOOP;
			   INSERT INTO app.called (role, instance) VALUES ('deaf', instance); END $$});
	subscribe('alice', 'unlucky', '/unlucky', 'app.deaf');
	my $launcher = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'whisperer launcher'};
	my @ends = (
		[ 'an immediate shutdown', sub { end_and_start(sub { $node->stop('immediate') }) } ],
		[ 'the crash of another process', sub { kill_and_start(sql($launcher)) } ],
		[ 'pg_terminate_backend', sub { sql("SELECT pg_terminate_backend(pid, 60000) $gated") } ],
		[ 'a fast shutdown', sub { end_and_start(sub { $node->stop('fast') }) } ],
		[ 'the end of the postmaster', sub {
			kill 'KILL', $node->{_pid};
			unlink $node->data_dir . '/pg_whisperer/launcher';
			$node->start_killed;
		} ]);
	my $file = $node->data_dir . '/pg_whisperer/' . sql('SELECT oid FROM pg_database WHERE datname = current_database()') . '.callback.taken';
	# Who has not ended five seconds after it was told to end at once, for lack of a processor, is killed by the postmaster, and has
	# noted nothing: then all is done anew, once.
	for my $try (1, 2)
	{
		sql('UPDATE app.gate SET open = false');
		my $uuid = deliver('unlucky', qq({"n": $try}));
		$node->wait_settled;
		my $runs = "SELECT runs FROM whisperer.job WHERE uuid = '$uuid'";
		my ($ended, $anew) = (0, 0);
		for my $end (@ends, @ends)
		{
			my ($name, $how) = @$end;
			is_called($uuid);
			is(sql($runs), 4 + $ended, "being called, and ended by others $ended times");
			$how->();
			is_called($uuid);
			my $weighs = sql($runs);
			$ended++;
			last if $anew = $try == 1 && $weighs ne 4 + $ended && $name =~ /immediate|crash/;
			is($weighs, 4 + $ended, "$name: hardly counts");
		}
		ok(!-e $file, 'what they left has been taken over') if !$anew;
		sql('UPDATE app.gate SET open = true');
		$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.job', '0');
		next if $anew;
		called(1, "role = 'deaf' AND instance->>'n' = '$try'");
		is(sql("SELECT count(*) FROM whisperer.function_failures WHERE uuid = '$uuid'"), '0', "a call whose process others have ended $ended times is made");
		last;
	}
}

# But not for ever: how a call may have others end its process is without number.
{
	sql('UPDATE app.gate SET open = false');
	my $uuid = deliver('unlucky', '{}');
	$node->wait_settled;
	my ($log, $ended) = ($node->log_position, 0);
	while ($ended < 12 && is_called($uuid))
	{
		end_and_start(sub { $node->stop('immediate') });
		$ended++;
	}
	given_up($uuid, 'a call whose process others have ended twelve times is given up');
	# As above, some of these may have weighed more.
	ok($ended == 12 || $node->log_since($log) =~ /issuing SIGKILL to recalcitrant children/, 'and not sooner');
}

# A call that lasts longer than any may, without looking for interrupts. That somebody then stops the server at once does not make it
# a call that may be made again without end.
{
	my ($library, $free) = map { File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir()) . "/$_" } 'busy.so', 'free';
	my $headers = qx(@{[ $ENV{PG_CONFIG} // 'pg_config' ]} --includedir-server);
	chomp $headers;
	system('cc', '-O2', '-shared', '-fPIC', "-I$headers", '-o', $library, "$FindBin::RealBin/../fault/busy.c") == 0
	  or die "the busy function cannot be built\n";
	sql(qq{CREATE FUNCTION app.busy_until(text) RETURNS void STRICT LANGUAGE c AS '$library';
		CREATE FUNCTION app.busy(response jsonb, text, instance jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
			\$\$ BEGIN
			   PERFORM pg_advisory_xact_lock_shared(60);
			   PERFORM app.busy_until('$free');
			   INSERT INTO app.called (role) VALUES ('busy'); END \$\$});
	subscribe('alice', 'busy', '/busy', 'app.busy');
	my $limit = 5;
	set_timeout("${limit}s");
	my $uuid = deliver('busy', '{}');
	my $runs = "SELECT runs FROM whisperer.job WHERE uuid = '$uuid'";
	$node->poll_until('postgres', "SELECT count(*) $gated", '1');
	my $pid = sql("SELECT pid $gated");
	set_timeout('10min'); # for the next
	my $hertz = POSIX::sysconf(POSIX::_SC_CLK_TCK());
	my $used = sub { my @stat = split ' ', slurp_file("/proc/$pid/stat") =~ s/.*\)//sr; return ($stat[11] + $stat[12]) / $hertz; };
	my $before = $used->();
	$node->await(sub { $used->() - $before > 2 * $limit + 1 }, 'a call that outlives its limit');
	end_and_start(sub { $node->stop('immediate') });
	$node->poll_until('postgres', "SELECT count(*) $gated", '1');
	is(sql($runs), 4 + 4, 'what would not end counts as what brought the server down');
	append_to_file($free, '');
	called(1, "role = 'busy'");
}

# The crash of a parallel worker of the call's own ends its process, too.
{
	sql(q{UPDATE app.gate SET open = false;
		CREATE FUNCTION app.waits(integer) RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE AS
			$$ BEGIN PERFORM pg_sleep(600); RETURN true; END $$; -- tested: sleeps
		CREATE TABLE app.rows AS SELECT n FROM generate_series(1, 100) n;
		GRANT SELECT ON app.rows TO PUBLIC;
		CREATE FUNCTION app.parallel(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql
			SET parallel_setup_cost = 0 SET parallel_tuple_cost = 0 SET min_parallel_table_scan_size = 0 SET parallel_leader_participation = off
			AS $$ BEGIN PERFORM count(*) FROM app.rows WHERE app.waits(n); END $$});
	subscribe('alice', 'parallel', '/parallel', 'app.parallel');
	my $uuid = deliver('parallel', '{}');
	$node->wait_settled;
	for (1 .. 3)
	{
		my $workers = q{FROM pg_stat_activity WHERE backend_type = 'parallel worker' AND wait_event = 'PgSleep'};
		$node->poll_until('postgres', "SELECT count(*) > 0 $workers", 't');
		kill_and_start(sql("SELECT pid $workers LIMIT 1"));
	}
	given_up($uuid, 'a call that crashes its parallel workers is given up');
}

# A call that no process survives is not made for ever. It does not take the others of its owner with it.
{
	sql('UPDATE app.gate SET open = false');
	subscribe('alice', 'fatal', '/fatal', 'app.gated');
	my $id = subscribe('alice', 'bystander', '/bystander', 'app.note');
	my $uuid = deliver('fatal', '{"n": 6}');
	$node->wait_settled;
	for my $crash (1 .. 3)
	{
		$node->poll_until('postgres', "SELECT count(*) $gated", '1');
		deliver('bystander', '{}') if $crash == 1;
		$node->wait_settled;
		kill_and_start(sql("SELECT pid $gated"));
	}
	given_up($uuid, 'a call that crashes its process');
	called(1, "event_type = 'bystander'");
	is(sql("SELECT state FROM whisperer.webhook_events WHERE uuid = '$uuid'"), 'delivered', 'a callback that no process survives is given up; its delivery and other callbacks are not concerned');
}

# Nothing is called while whisperer is disabled, nothing is lost.
{
	sql(q{INSERT INTO app.gate VALUES (true); DELETE FROM app.gate WHERE NOT open; UPDATE app.gate SET open = false});
	my $before = sql(q{SELECT count(*) FROM app.called WHERE role = 'gated'});
	deliver('gated', '{"n": 7}');
	$node->poll_until('postgres', "SELECT count(*) $gated", '1');
	my $pid = sql("SELECT pid $gated");
	sql(q{ALTER SYSTEM SET whisperer.enabled = off});
	sql('SELECT pg_reload_conf()');
	sql("SELECT pg_terminate_backend($pid)");
	$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.workers WHERE kind = 'callback'}, '0');
	is(sql('SELECT count(*) FROM whisperer.job'), '1', 'disabled: the call waits');
	sql('UPDATE app.gate SET open = true');
	sql(q{ALTER SYSTEM RESET whisperer.enabled});
	sql('SELECT pg_reload_conf()');
	called($before + 1, "role = 'gated'");
	pass('enabled: it is made');
}

# Processes that have nothing to do leave.
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.workers WHERE kind IN ('callback', 'countdown')}, '0');
pass('a process without work does not stay');

$node->stop;
done_testing();
