# What becomes of a delivery's row when it is settled: the history has all that was in it, whatever else is under way on that
# row, at every isolation level.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;
use Time::HiRes qw(time);

use Whisperer::Node;
use Whisperer::Receiver;

my $node = Whisperer::Node->started('main', settings => "autovacuum = off\nwhisperer.request_timeout = 600");
my $receiver = Whisperer::Receiver->new;
my $url = $receiver->url('/in');
$node->safe_psql('postgres', qq{
	CREATE FUNCTION large(jsonb) RETURNS jsonb LANGUAGE sql AS \$\$
		SELECT \$1 || jsonb_build_object('body', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n)) \$\$;
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.register_event_type('customized', customizer => 'large');
	SELECT whisperer.subscribe('customized', '$url');
	SELECT whisperer.subscribe('t', '$url', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}')});

sub sql { return $node->safe_psql('postgres', shift) }

# --- rows with values that are kept beside the row, and many attempts
my $incompressible = q{(SELECT string_agg(md5(n::text), '') FROM generate_series(1, %d) n)};
my @contents = (
	[ 'small', 't', q{'x'}, 0 ],
	[ 'compressed', 't', q{repeat('x', 20000)}, 0 ],
	[ 'beside the row', 't', sprintf($incompressible, 300), 0 ],
	[ 'of the event', 't', sprintf($incompressible, 9000), 0 ],
	[ 'body of a customizer', 'customized', q{'x'}, 0 ],
	[ 'after several attempts', 't', sprintf($incompressible, 300), 5 ],
);
for (@contents)
{
	my ($what, $type, $value, $failures) = @$_;
	# It stays pending long enough to be looked at.
	sql('ALTER SYSTEM SET whisperer.enabled = off; SELECT pg_reload_conf()');
	$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'disabled');
	my $uuid = sql(qq{SELECT (whisperer.deliver_event(jsonb_build_object('a', $value), '$type'))[1]});
	my $kept = 'uuid, subscription_id, event_type, event_uuid, md5(payload), md5(body), relation_schema, relation_name, created_date';
	my $before = sql("SELECT $kept FROM whisperer.delivery WHERE uuid = '$uuid'");
	my $answer = { status => 200, body => "fine: $what" };
	$receiver->answer('/in', (map { { status => 500 } } 1 .. $failures), $answer);
	sql('ALTER SYSTEM RESET whisperer.enabled; SELECT pg_reload_conf()');
	$node->wait_settled;
	is(sql("SELECT $kept FROM whisperer.history WHERE uuid = '$uuid'"), $before, "$what: all is in the history");
	is(sql("SELECT count(*) FROM whisperer.delivery WHERE uuid = '$uuid'"), 0, "$what: the delivery is gone");
	is(sql(qq{
			SELECT state, attempts, response_http_status, response_content, error IS NULL, response_time > '0',
				cardinality(request_datetimes), array_lower(request_datetimes, 1),
				request_datetimes = (SELECT array_agg(d ORDER BY d DESC) FROM unnest(request_datetimes) d),
				modified_date >= request_datetimes[1], reason IS NULL
			FROM whisperer.history WHERE uuid = '$uuid'}),
		join('|', 'delivered', $failures + 1, 200, "fine: $what", 't', 't', $failures + 1, 1, 't', 't', 't'),
		"$what: and what came of the attempt");
}

# --- somebody has the row locked when the result comes: that one waits, no other does
my $open = $node->background_psql('postgres');
sql(qq{SELECT whisperer.register_event_type('later');
	SELECT whisperer.subscribe('later', '} . $receiver->url('/later') . q{', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 3600}}')});
for my $strength ('KEY SHARE', 'SHARE', 'NO KEY UPDATE', 'UPDATE')
{
	$receiver->behave(path => '/in', steps => [ { hang => 'request' }, { status => 200 } ]);
	my $arrived = $receiver->count(path => '/in');
	my $uuid = sql(q{SELECT (whisperer.deliver_event('{"n": 1}', 't'))[1]});
	$receiver->await('/in', $arrived + 1);
	$open->query_safe("BEGIN; SELECT 1 FROM whisperer.delivery WHERE uuid = '$uuid' FOR $strength");
	$receiver->release('/in');
	$node->poll_until('postgres', q{SELECT in_flight FROM whisperer.workers WHERE kind = 'delivery'}, '0');
	my $other = sql(q{SELECT (whisperer.deliver_event('{"n": 2}', 'later'))[1]});
	$node->poll_until('postgres', "SELECT state FROM whisperer.history WHERE uuid = '$other'", 'delivered');
	is(sql("SELECT count(*) FROM whisperer.delivery WHERE uuid = '$uuid'"), 1, "FOR $strength: the result waits");
	$open->query_safe('COMMIT');
	$node->wait_settled;
	is(sql("SELECT state, attempts FROM whisperer.history WHERE uuid = '$uuid'"), 'delivered|1', "FOR $strength: it is recorded then");
	is($receiver->count(path => '/in'), $arrived + 1, "FOR $strength: it was sent once");
}
$open->quit;

# --- so it does while the worker leaves: for a second. Where that may have passed, it is not judged.
for my $end ('pg_terminate_backend', 'fast shutdown')
{
	$receiver->behave(path => '/in', steps => [ { hang => 'request' }, { status => 200 } ]);
	my $arrived = $receiver->count(path => '/in');
	my $uuid = sql(q{SELECT (whisperer.deliver_event('{"n": 1}', 't'))[1]});
	$receiver->await('/in', $arrived + 1);
	my $holder = $node->background_psql('postgres', on_error_die => 0);
	$holder->query_safe("BEGIN; SELECT 1 FROM whisperer.delivery WHERE uuid = '$uuid' FOR UPDATE");
	$receiver->release('/in');
	$node->poll_until('postgres', q{SELECT in_flight FROM whisperer.workers WHERE kind = 'delivery'}, '0');
	# It has been found locked by now.
	my $other = sql(q{SELECT (whisperer.deliver_event('{"n": 2}', 'later'))[1]});
	$node->poll_until('postgres', "SELECT state FROM whisperer.history WHERE uuid = '$other'", 'delivered');
	my ($worker) = $node->delivery_pids('postgres');
	my $asked = time();
	my $took;
	if ($end eq 'fast shutdown')
	{
		# It ends the session that has the row locked as well.
		$node->stop('fast');
		$took = time() - $asked;
		eval { $holder->quit }; # it has gone with the server
		$node->start;
	}
	else
	{
		# When it has looked again.
		$holder->query_safe("SELECT pg_terminate_backend($worker)");
		$node->let_pass(0.25);
		$holder->query_safe('COMMIT');
		$took = time() - $asked;
		$holder->quit;
		$node->await(sub { !kill 0, $worker }, 'the end of the worker');
	}
	$node->wait_settled;
	SKIP:
	{
		skip "$end: it took $took s", 1 if $took >= ($end eq 'fast shutdown' ? 1 : 0.5);
		is(sql("SELECT state, attempts FROM whisperer.history WHERE uuid = '$uuid'") . ' ' . $receiver->count(path => '/in'),
			'delivered|1 ' . ($arrived + 1), "$end: the result is recorded, nothing is sent again");
	}
}

# --- a session settles rows of its own transaction, and rows that it has locked
for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	$receiver->answer('/later', { status => 500 }, { status => 200 });
	my $pending = sql(q{SELECT (whisperer.deliver_event('{"n": 3}', 'later'))[1]});
	$node->poll_until('postgres', "SELECT attempts FROM whisperer.delivery WHERE uuid = '$pending' AND due IS NOT NULL", '1');
	my $state = "SELECT count(*), (SELECT state FROM whisperer.history WHERE uuid = '$pending') FROM whisperer.delivery WHERE uuid = '$pending'";
	my $deliver = "SELECT cardinality(whisperer.deliver_event(NULL::jsonb, 'later', false, '$pending'))";
	is(sql(qq{
			BEGIN ISOLATION LEVEL $level;
			SELECT cardinality(whisperer.deliver_event('{"n": 4}', 't', false));
			SELECT 1 FROM whisperer.delivery WHERE uuid = '$pending' FOR UPDATE;
			SAVEPOINT s;
			$deliver;
			$state;
			ROLLBACK TO s;
			$state;
			$deliver;
			$state;
			COMMIT}),
		join("\n", 1, 1, 1, '0|delivered', '1|', 1, '0|delivered'), "$level: what a session settled is settled, until it is rolled back");
	is(sql("SELECT state, attempts, cardinality(request_datetimes) FROM whisperer.history WHERE uuid = '$pending'"),
		'delivered|2|2', "$level: and after the commit");
}

$node->stop;
done_testing();
