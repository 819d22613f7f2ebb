# A worker that waited for a lock within a transaction has had its latch reset: what was announced meanwhile is not lost, nor is
# what comes after it.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => 'autovacuum = off');
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $deliver = q{SELECT whisperer.deliver_event('{}'::jsonb, 't')};
my $url = $receiver->url('/in');
sql("SELECT whisperer.register_event_type('t'); SELECT whisperer.subscribe('t', '$url')");
sql($deliver);
$node->wait_settled;

# Statistics are saved every ten seconds; the deadlock check, a second later, would wake it once more and hide the loss.
my $session = $node->background_psql('postgres');
my $waits = q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type ~ '^whisperer delivery'};
sub all_arrive
{
	$receiver->forget;
	$session->query_safe('BEGIN; LOCK TABLE whisperer.statistics_total IN SHARE ROW EXCLUSIVE MODE');
	# Something to save, also when what came before has been saved by now.
	sql($deliver);
	$node->poll_until('postgres', $waits, '1');
	sql($deliver);
	$node->poll_until('postgres', q{SELECT clock_timestamp() > waitstart + interval '2 s' FROM pg_locks WHERE NOT granted});
	$session->query_safe('COMMIT');
	sql($deliver) for 1, 2;
	my $soon = eval { $receiver->await('/in', 4, timeout => 5) };
	$node->wait_settled;
	return $soon;
}
# What is lost is lost each time, until statistics are due again; a machine that stands still for so long is not each time.
my $arrived;
for (1 .. 5) { last if $arrived = all_arrive(); }
ok($arrived, 'everything arrives');
$session->quit;
$node->stop;
done_testing();
