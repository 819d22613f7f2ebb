# A fast shutdown sends a worker two SIGTERMs, the launcher's and the postmaster's: it still saves the statistics, every time.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
my $url = $receiver->url('/in');
my $delivered = 'SELECT delivered FROM whisperer.statistics';
$node->safe_psql('postgres', "SELECT whisperer.register_event_type('t'); SELECT whisperer.subscribe('t', '$url')");
my @kept;
for my $round (1 .. 20)
{
	$node->safe_psql('postgres', "SELECT whisperer.deliver_event('{}'::jsonb, 't')");
	$node->wait_settled;
	$node->poll_until('postgres', $delivered, $kept[-1] ? $kept[-1] + 1 : 1);
	$node->restart;
	$node->delivery_pids('postgres');
	push @kept, $node->safe_psql('postgres', $delivered);
	last if $kept[-1] != $round;
}
is("@kept", join(' ', 1 .. 20), 'nothing that was counted is lost by a restart');
$node->stop;
done_testing();
