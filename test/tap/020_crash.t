# A delivery worker killed with SIGKILL, and an immediate shutdown, each with thousands of deliveries
# waiting: all of them arrive afterwards, and only what was in flight may arrive twice (parity row 33).
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $waiting = 5000;
my $in_flight = 32;
# In flight is what was sent and whose result is not durable: requests under way, and results on their way
# to the table. Both together fill the worker's slots.
my $not_durable = 64;
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main',
	settings => "restart_after_crash = on\nwhisperer.request_timeout = 600\n"
	  . "whisperer.max_in_flight_per_subscription = $in_flight\nwhisperer.max_in_flight = $not_durable");

my $subscription = $node->safe_psql(
	'postgres', qq{
	SELECT whisperer.register_event_type('numbered');
	SELECT whisperer.subscribe('numbered', '@{[$receiver->url('/in')]}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 1}}')});
$subscription =~ s/\s//g;

# A subscription's window opens as its receiver proves itself: so that all of it is used below.
$node->safe_psql('postgres',
	"SELECT count(whisperer.deliver_event(jsonb_build_object('n', -n), 'numbered')) FROM generate_series(1, 200) n");
$node->wait_settled;

# Raises the events in one transaction, lets some arrive, crashes in the middle, and looks.
sub crash_in_the_middle
{
	my ($name, $answers, $arrived, $most_twice, $crash) = @_;
	$receiver->reset;
	$receiver->answer('/in', @$answers);
	$node->safe_psql('postgres',
		"SELECT count(whisperer.deliver_event(jsonb_build_object('n', n), 'numbered')) FROM generate_series(1, $waiting) n");
	$receiver->await('/in', $arrived, brief => 1);
	$crash->();
	# What arrived by now was sent before the crash; the rest is sent after it.
	my %before = map { $_->{id} => 1 } $receiver->requests(path => '/in', brief => 1);
	$receiver->answer('/in', { status => 200 });
	$receiver->release;

	ok($node->poll_query_until('postgres', 'SELECT true'), "$name: the server is back");
	$node->wait_settled;
	my %times;
	$times{ $_->{id} }++ for $receiver->requests(path => '/in', brief => 1);
	is(scalar keys %times, $waiting, "$name: all of them arrived");
	my @twice = grep { $times{$_} > 1 } keys %times;
	note "$name: " . keys(%before) . ' sent before the crash, ' . @twice . ' sent again';
	cmp_ok(scalar @twice, '<=', $most_twice, "$name: no more twice than can be in flight");
	is(scalar(grep { !$before{$_} } @twice), 0, "$name: only what was in flight came twice");
	is(scalar(grep { $_ > 2 } values %times), 0, "$name: and none three times");
	is( $node->safe_psql('postgres', 'SELECT count(*) FROM whisperer.pending'),
		'0', "$name: nothing is left");
	return;
}

my $kill_worker = sub {
	my ($pid) = $node->delivery_pids('postgres');
	kill 'KILL', $pid or die "kill: $!";
	# The postmaster restarts everything: wait until it has noticed.
	$node->wait_for_log(qr/\(PID $pid\) was terminated by signal 9/);
};
my $pull_the_plug = sub { $node->crash_and_start };

# As fast as it goes at first, and then slow enough to be in the middle when it crashes. However late that is, it is not the end.
my $delivering = [ { status => 200, times => 1000 }, { status => 200, delay => { headers => 50 }, times => 2000 }, { hang => 'request' } ];
crash_in_the_middle('worker killed while delivering', $delivering, 1000, $not_durable, $kill_worker);
crash_in_the_middle('worker killed while waiting', [ { hang => 'request' } ], $in_flight, $in_flight, $kill_worker);
crash_in_the_middle('plug pulled while delivering', $delivering, 1000, $not_durable, $pull_the_plug);
crash_in_the_middle('plug pulled while waiting', [ { hang => 'request' } ], $in_flight, $in_flight, $pull_the_plug);

is( $node->safe_psql('postgres', 'SELECT count(*), bool_and(delivered) FROM whisperer.webhook_events'),
	4 * $waiting + 200 . '|t', 'every event is there, as delivered');

done_testing();
