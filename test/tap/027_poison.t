# Two deliveries each of which brings the worker down whenever it is sent: both are given up after three crashes in which they
# were alone in flight. While one of them is tried, the other's crashes are not forgotten.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;

use Whisperer::Node;
use Whisperer::Receiver;

my $node = Whisperer::Node->started('main', settings => "restart_after_crash = off\nwhisperer.request_timeout = 600");
my $receiver = Whisperer::Receiver->new;
$receiver->answer($_, { hang => 'request' }) for '/1', '/2';
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('poison');
	SELECT whisperer.subscribe('poison', '@{[$receiver->url('/1')]}');
	SELECT whisperer.subscribe('poison', '@{[$receiver->url('/2')]}')});

my $requests = sub { $receiver->count(path => '/1') + $receiver->count(path => '/2') };
my $given_up = sub {
	$node->safe_psql('postgres', q{SELECT count(*) FROM whisperer.failed WHERE error ~ 'given up'});
};
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{"n": 1}', 'poison')});

# Two crashes with both in flight, and then three with each alone.
my $most_crashes = 2 + 3 + 3;
my $crashes = 0;
my $sent = 0;
while ($crashes <= $most_crashes)
{
	# The first two times both are sent at once.
	my $wanted = $crashes < 2 ? 2 : 1;
	$node->await(sub { $requests->() >= $sent + $wanted || $given_up->() == 2 }, 'both to be sent, or given up');
	last if $given_up->() == 2;
	my ($worker) = $node->delivery_pids('postgres');
	kill 'KILL', $worker;
	$crashes++;
	$sent = $requests->();
	$node->start_again;
}
is($given_up->(), 2, 'both were given up');
is($crashes, $most_crashes, 'after as many crashes as it takes');

# They can be revived, and then have done nothing yet.
$receiver->answer($_, { status => 200 }) for '/1', '/2';
$node->safe_psql('postgres', 'SELECT whisperer.retry(uuid) FROM whisperer.failed');
$node->wait_settled;
is($node->safe_psql('postgres', 'SELECT bool_and(delivered) FROM whisperer.webhook_events'), 't', 'and can be revived');

# Who ends the server, or the worker, or another process: none of them is to be blamed on what is alone in flight.
$receiver->answer('/1', { hang => 'request' });
my $arrived = $receiver->count(path => '/1');
my ($innocent) = split /\n/, $node->safe_psql('postgres', q{SELECT unnest(whisperer.deliver_event('{"n": 2}', 'poison'))});
my @ends = (
	[ 'an immediate shutdown', sub { $node->crash_and_start } ],
	[ 'a crash of another process', sub {
		kill 'KILL', $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});
		$node->start_again; } ],
	[ 'an end of the postmaster', sub { kill 'KILL', $node->{_pid}; $node->start_killed; } ],
	[ 'a second pg_terminate_backend', sub {
		my ($worker) = $node->delivery_pids('postgres');
		my $first = $node->safe_psql('postgres', "SELECT clock_timestamp() FROM pg_terminate_backend($worker)");
		$node->poll_until('postgres', "SELECT clock_timestamp() > timestamptz '$first' + interval '0.4 s'"); # one at once would be the same
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
		$node->poll_until('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $worker", '0'); } ]);
my $hurry = $ends[-1];
for my $end (@ends, $hurry, $hurry)
{
	my ($name, $make) = @$end;
	$receiver->await('/1', ++$arrived);
	$make->();
	# It waits longer after each.
	unlink $node->data_dir . '/pg_whisperer/launcher';
}
$receiver->await('/1', ++$arrived);
is($node->safe_psql('postgres', "SELECT state FROM whisperer.webhook_events WHERE uuid = '$innocent'"), 'pending',
	'not given up after ' . join(', ', map { $_->[0] } @ends));
$receiver->answer('/1', { status => 200 });
$receiver->release('/1');
$node->wait_settled;
is($node->safe_psql('postgres', "SELECT state FROM whisperer.webhook_events WHERE uuid = '$innocent'"), 'delivered', 'and delivered');

# But what has been through such an end is poison all the same, if it is.
$receiver->answer('/1', { hang => 'request' });
$arrived = $receiver->count(path => '/1');
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{"n": 3}', 'poison')});
$receiver->await('/1', ++$arrived);
$node->crash_and_start;
for (1 .. 3)
{
	$receiver->await('/1', ++$arrived);
	kill 'KILL', $node->delivery_pids('postgres');
	$node->start_again;
}
$node->wait_settled;
is($node->safe_psql('postgres', q{SELECT count(*) FROM whisperer.failed WHERE error ~ 'given up'}), '1', 'three crashes of its own, and it is given up');

$node->stop;
done_testing();
