# Custom countdowns: register_countdown, its validator, when the next attempt is, and what happens when they go wrong.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => 'whisperer.retention = 0');

sub sql { return $node->safe_psql('postgres', $_[0]); }

$receiver->behave(path => '*', steps => [ { status => 500 } ]);

# The manual's example in plain SQL: factor·n, doubled when n is even.
sql(q{
	CREATE ROLE alice;
	CREATE SCHEMA app;
	GRANT USAGE ON SCHEMA app TO PUBLIC;
	CREATE FUNCTION app.factor_countdown(retry_count integer, kwargs jsonb) RETURNS numeric LANGUAGE sql IMMUTABLE AS
		$$ SELECT (kwargs ->> 'factor')::numeric * retry_count * CASE WHEN retry_count % 2 = 0 THEN 2 ELSE 1 END $$;
	CREATE FUNCTION app.factor_kwargs(kwargs jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		IF jsonb_typeof(kwargs -> 'factor') IS DISTINCT FROM 'number' THEN
			RAISE 'factor must be a number' USING ERRCODE = 'invalid_parameter_value';
		END IF;
		RETURN jsonb_build_object('factor', kwargs -> 'factor', 'by', current_user);
	END $$;
	SELECT whisperer.register_event_type('package-created');
	SELECT whisperer.register_countdown('factor', 'app.factor_countdown', 'app.factor_kwargs');
});

is(sql(q{SELECT retry_count, seconds, cumulative FROM whisperer.countdown_preview('{"choice": "factor", "kwargs": {"factor": 5}}', 4)}),
	"1|5|5\n2|20|25\n3|15|40\n4|40|80", 'parity row 17: countdown_preview knows it');

my $subscriptions = 0;
# A subscription and one delivery of it; their numbers.
sub subscribe
{
	my ($config, $role) = @_;
	my $path = '/' . ++$subscriptions;
	my $type = "type$subscriptions";
	my $id = sql("SELECT whisperer.register_event_type('$type');
		SELECT whisperer.subscribe('$type', '" . $receiver->url($path) . "', retry_countdown_config => '$config')");
	$id =~ s/^\n//;
	sql("UPDATE whisperer.subscription SET owner_oid = 'alice'::regrole, owner_name = 'alice', change_xid = pg_current_xact_id() WHERE id = $id") if $role;
	return ($id, sql("SELECT (whisperer.deliver_event('{}'::jsonb, '$type'))[1]"));
}

# Seconds from the last attempt to the next one, once that many were made and the countdown is known. The tolerance is for the time
# from the attempt to its record.
sub wait_of
{
	my ($uuid, $attempts, $wait, $tolerance) = @_;
	$tolerance //= 30;
	return $node->poll_until('postgres', "SELECT count(*) FROM whisperer.webhook_events WHERE uuid = '$uuid' AND retry_count = $attempts
		AND extract(epoch FROM next_attempt_at - modified_date) BETWEEN $wait - $tolerance AND $wait + $tolerance", '1');
}

# parity row 17
{
	my ($id, $uuid) = subscribe('{"choice": "factor", "kwargs": {"factor": 500}}');
	is(sql("SELECT retry_countdown_config FROM whisperer.subscriptions WHERE id = $id"),
		'{"choice": "factor", "kwargs": {"by": "postgres", "factor": 500}}', 'what the validator accepted is stored');
	ok(wait_of($uuid, 1, 500), 'parity row 17: 1 attempt: factor');
	for ([ 2, 2000 ], [ 3, 1500 ], [ 4, 4000 ])
	{
		sql("SELECT whisperer.retry('$uuid')");
		ok(wait_of($uuid, $_->[0], $_->[1]), "parity row 17: $_->[0] attempts: $_->[1] s");
	}
	is(sql("SELECT count(*) FROM whisperer.function_failures"), '0', 'nothing went wrong');
	$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.delivery WHERE due IS NULL}, '0');
	pass('and the delivery worker has the due times');
}

# A short one is really sent then.
{
	my ($id, $uuid) = subscribe('{"choice": "factor", "kwargs": {"factor": 0.05}}');
	$receiver->await("/$subscriptions", 4);
	pass('the attempts are made when the function says, not by the default schedule');
	sql("SELECT whisperer.unsubscribe($id)");
}

# Run as the subscription's owner, whose EXECUTE counts at each call.
{
	sql(q{CREATE TABLE app.ran (role text); GRANT INSERT ON app.ran TO alice;
		CREATE FUNCTION app.notes(integer, jsonb) RETURNS integer LANGUAGE sql AS 'INSERT INTO app.ran VALUES (current_user); SELECT 700';
		SELECT whisperer.register_countdown('notes', 'app.notes')});
	my ($id, $uuid) = subscribe('{"choice": "notes"}', 'alice');
	ok(wait_of($uuid, 1, 700), 'a countdown of an integer, without kwargs');
	is(sql('SELECT string_agg(role, \',\') FROM app.ran'), 'alice', '... run as the owner');
	is(sql("SELECT retry_countdown_config FROM whisperer.subscriptions WHERE id = $id"), '{"choice": "notes", "kwargs": {}}', '... stored with empty kwargs');
	sql('REVOKE ALL ON FUNCTION app.notes FROM PUBLIC');
	sql("SELECT whisperer.retry('$uuid')");
	$node->poll_until('postgres', "SELECT string_agg(kind || ' ' || sqlstate, ',') FROM whisperer.function_failures WHERE uuid = '$uuid'", 'countdown 42501');
	ok(wait_of($uuid, 2, 300, 60), '... and without EXECUTE the default schedule holds, and the reason is recorded');
}

# What goes wrong: the default schedule, and the reason recorded.
my $position = $node->log_position;
my %wrong = (
	raises => [ q{BEGIN RAISE 'no idea'; END}, 'P0001', qr/^no idea$/ ],
	nothing => [ q{BEGIN RETURN NULL; END}, '22023', qr/returned NULL for 1 attempts/ ],
	negative => [ q{BEGIN RETURN -1; END}, '22023', qr/returned -1 for 1 attempts/ ],
	nan => [ q{BEGIN RETURN 'NaN'; END}, '22023', qr/returned nan for 1 attempts/i ],
	slow => [ q{BEGIN PERFORM pg_sleep(600); RETURN 1; END}, '57014', qr/^took longer than a second$/ ], # tested: sleeps
	swallows => [ q{BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END}, '57014', qr/process was ended$/ ], # tested: sleeps
	gone => [ q{BEGIN RETURN 1; END}, '42883', qr/does not exist/ ]);
my %uuid;
for my $name (sort keys %wrong)
{
	sql("CREATE FUNCTION app.$name(integer, jsonb) RETURNS float8 LANGUAGE plpgsql AS \$\$ $wrong{$name}[0] \$\$;
		SELECT whisperer.register_countdown('$name', 'app.$name')");
	if ($name eq 'gone')
	{
		my $type = 'type' . ++$subscriptions;
		sql("SELECT whisperer.register_event_type('$type'); SELECT whisperer.subscribe('$type', '" . $receiver->url("/$subscriptions") . q{', retry_countdown_config => '{"choice": "gone"}')});
		sql('DROP FUNCTION app.gone(integer, jsonb)');
		$uuid{$name} = sql("SELECT (whisperer.deliver_event('{}'::jsonb, '$type'))[1]");
	}
	else { (undef, $uuid{$name}) = subscribe("{\"choice\": \"$name\"}"); }
}
for my $name (sort keys %wrong)
{
	my (undef, $state, $error) = @{ $wrong{$name} };
	$node->poll_until('postgres', "SELECT count(*) FROM whisperer.function_failures WHERE uuid = '$uuid{$name}' AND attempt = 1 AND kind = 'countdown'", '1');
	my ($sqlstate, $reason) = split /\|/, sql("SELECT sqlstate, error FROM whisperer.function_failures WHERE uuid = '$uuid{$name}' AND attempt = 1");
	is($sqlstate, $state, "$name: recorded");
	like($reason, $error, '... with the reason');
	$receiver->await("/" . sql("SELECT substr(event_type, 5) FROM whisperer.webhook_events WHERE uuid = '$uuid{$name}'"), 2) if $name eq 'raises';
}
pass('and the retry comes by the default schedule, after 5 s');
like($node->log_since($position), qr/a countdown of subscription \d+ went wrong: no idea/, 'the log says it');

# Two users of one countdown, and its end.
isnt($node->psql('postgres', q{SELECT whisperer.unregister_countdown('factor')}, stderr => \my $stderr), 0, 'one that is in use stays');
like($stderr, qr/countdown "factor" is in use/, '... and says so');

# Dump and restore: the countdown comes along.
sql('CREATE DATABASE copy');
my $dump = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'dump');
$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], 'restore');
is($node->safe_psql('copy', q{SELECT countdown, validator FROM whisperer.countdowns WHERE choice = 'factor'}),
	'app.factor_countdown(integer, jsonb)|app.factor_kwargs(jsonb)', 'a dump holds the custom countdowns');

$node->stop;
done_testing();
