# A subscriber that never answers and one that is down delay nobody: a third is served as if they were
# not there.  And while HTTP is in flight the worker holds no transaction and no snapshot.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $events = 1000;
my $receiver = Whisperer::Receiver->new(
	listen => [ { name => 'main' }, { name => 'silent', accept => 'hang' }, { name => 'down' } ]);
# A time-out that a bad neighbour would cost others shows on any machine.
my $node = Whisperer::Node->started('main', settings => 'whisperer.request_timeout = 60');

$receiver->unlisten('down');
$node->safe_psql(
	'postgres', qq{
	SELECT whisperer.register_event_type(t) FROM unnest('{alone,together}'::text[]) t;
	SELECT whisperer.subscribe('alone', '@{[$receiver->url('/alone')]}');
	SELECT whisperer.subscribe('together', '@{[$receiver->url('/silent', port => 'silent')]}');
	SELECT whisperer.subscribe('together', '@{[$receiver->url('/hangs')]}');
	SELECT whisperer.subscribe('together', '@{[$receiver->url('/down', port => 'down')]}');
	SELECT whisperer.subscribe('together', '@{[$receiver->url('/healthy')]}');
});
$receiver->answer('/hangs', { hang => 'body', body => 'half of it' });

sub seconds_for
{
	my ($type, $path) = @_;
	my $start = time();
	$node->safe_psql('postgres',
		"SELECT count(whisperer.deliver_event(jsonb_build_object('n', n), '$type')) FROM generate_series(1, $events) n");
	$receiver->await($path, $events, brief => 1);
	return time() - $start;
}

my $alone = seconds_for('alone', '/alone');
my $together = seconds_for('together', '/healthy');
note sprintf 'alone %.2f s, beside three bad ones %.2f s', $alone, $together;
# Four times as many rows are written.
cmp_ok($together, '<', 4 * $alone + 30, 'the healthy one is served as if the others were not there');
is(scalar($receiver->requests(path => '/healthy', brief => 1)), $events, 'each event once');
$node->poll_until('postgres',
	q{SELECT pending FROM whisperer.subscription_health WHERE target_url LIKE '%/healthy'}, '0');

# Requests are in flight to the silent ones: no transaction, no snapshot, no lock for it.
$receiver->await('/hangs', 1, brief => 1);
my ($pid) = $node->delivery_pids('postgres');
my $activity = "FROM pg_stat_activity WHERE pid = $pid";
ok($node->poll_until('postgres', "SELECT xact_start IS NULL AND backend_xmin IS NULL AND backend_xid IS NULL $activity"),
	'no transaction and no snapshot while HTTP is in flight');
ok($node->poll_until('postgres', "SELECT count(*) FROM pg_locks WHERE pid = $pid AND relation IS NOT NULL", '0'),
	'nor a lock on a table');
my $in_flight = $node->safe_psql('postgres',
	q{SELECT count(*) FROM whisperer.subscription_health WHERE in_flight > 0 AND target_url ~ '/(silent|hangs)$'});
is($in_flight, '2', 'subscription_health shows who is waited for');

# What failed says why, and is retried later.
ok( $node->poll_until('postgres', q{SELECT count(*) > 0 FROM whisperer.webhook_events
	WHERE target_url LIKE '%/down' AND state = 'pending' AND retry_count >= 1 AND error IS NOT NULL
	AND response_http_status IS NULL AND next_attempt_at > created_date}), 'the one that is down: failures with their reason');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM whisperer.webhook_events
		WHERE target_url !~ '/(alone|healthy)$' AND state <> 'pending'}),
	'0', 'nothing is given up so soon');

# A shutdown does not wait for them.
my $start = time();
$node->stop('fast');
cmp_ok(time() - $start, '<', 30, 'a fast shutdown is fast');

done_testing();
