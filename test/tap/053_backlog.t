# 50,000 deliveries (half a million in `make test-long`) wait for a receiver that hangs, as many again are being written: somebody else's delivery is made at once,
# also just after the worker has started, and the worker's memory does not grow with what waits.
use strict;
use warnings;

use List::Util qw(max);
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Processes qw(private_memory);
use Whisperer::Receiver;

my $waiting = $ENV{WHISPERER_LONG} ? 500_000 : 50_000;
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "max_wal_size = 4GB\nwhisperer.request_timeout = 600");
sub sql { return $node->safe_psql('postgres', $_[0]); }
$receiver->behave(path => '/hangs', steps => [ { hang => 'request' } ]);
sql(qq{SELECT whisperer.register_event_type(t) FROM unnest('{slow,quick}'::text[]) t;
	SELECT whisperer.subscribe('slow', '@{[$receiver->url('/hangs')]}');
	SELECT whisperer.subscribe('quick', '@{[$receiver->url('/quick')]}')});
my $raise = "SELECT count(whisperer.deliver_event(jsonb_build_object('n', n, 'what', repeat('x', 300)), 'slow')) FROM generate_series(1, $waiting) n";

# From the call to the arrival, seconds: the longest of so many.
my $arrived = 0;
sub longest
{
	my ($number) = @_;
	my @took;
	for (1 .. $number)
	{
		my $start = time();
		sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'quick')});
		$receiver->await('/quick', ++$arrived, brief => 1);
		push @took, time() - $start;
	}
	return max(@took);
}
sub prompt
{
	my ($what, $number, $limit) = @_;
	my $took = longest($number);
	note sprintf '%s: %.3f s at most', $what, $took;
	# Whoever waited for those that hang would wait for minutes.
	cmp_ok($took, '<', ($limit // 20) * ($ENV{WHISPERER_POSTGRES} ? 5 : 1), "$what: at once");
	return;
}

prompt('alone', 10);
my ($pid) = $node->delivery_pids('postgres');
my $before = private_memory($pid);
sql($raise);
$receiver->await('/hangs', 1);
prompt('beside what waits', 10);

my $writer = $node->background_psql('postgres');
$writer->query_safe('BEGIN');
$writer->query_safe($raise);
prompt('beside as much that is not committed', 10);
$writer->query_safe('COMMIT');
prompt('just after its commit', 10);
$writer->quit;
# The last quick one is recorded a moment after it has arrived.
$node->poll_until('postgres', q{SELECT sum(pending) FROM whisperer.subscription_health WHERE target_url LIKE '%/quick'}, '0');
is(sql('SELECT sum(pending) FROM whisperer.subscription_health'), 2 * $waiting, 'all of that still waits');
is(scalar(grep { $_ eq $pid } $node->delivery_pids('postgres')), 1, 'for one and the same worker');
my $after = private_memory($pid);
note sprintf 'private memory: %.1f MB, later %.1f MB', $before, $after;
cmp_ok($after, '<', $before + 16, 'whose memory has not grown with it (MB)');

# A worker that has just started looks through nothing first.
sql("SELECT pg_terminate_backend($pid)");
prompt('a worker that starts', 1, 60); # the old one waits a second for what is under way
prompt('one that has started', 10);
my ($new) = $node->delivery_pids('postgres');
isnt($new, $pid, 'it is another one');
cmp_ok(private_memory($new), '<', $before + 16, 'nor has the memory of the new one (MB)');

$node->stop('immediate');
done_testing();
