# Events that a transaction raised while it still saw a subscription that has ended since: cancelled, however late they come;
# and looking for them costs nothing to speak of.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;

use Whisperer::Node;

my $node = Whisperer::Node->started('main', settings => "autovacuum = off\nwhisperer.safety_scan_interval = 1s");
$node->safe_psql('postgres', q{
	SELECT whisperer.register_event_type('t'), whisperer.register_event_type('other');
	SELECT whisperer.subscribe('t', 'http://192.0.2.1/' || n) FROM generate_series(1, 3) n;
	SELECT whisperer.update_subscription(whisperer.subscribe('other', 'http://192.0.2.1/'), '{"is_active": false}')});

# Until the worker has looked so many times more. (It reads the one row of whisperer.home each time.)
sub scans
{
	my ($times) = @_;
	my $count = q{SELECT pg_stat_force_next_flush(); SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'home'};
	my $last = sub { (split /\n/, $node->safe_psql('postgres', $count))[-1] };
	my $wanted = $last->() + $times;
	$node->poll_until('postgres', qq{SELECT seq_scan >= $wanted FROM pg_stat_user_tables WHERE relname = 'home'});
	return;
}

sub rows_read
{
	return (split /\n/, $node->safe_psql('postgres', q{
		SELECT pg_stat_force_next_flush();
		SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'delivery'}))[-1];
}

# One that had written before the end, and one that only saw: it writes after the end, with a later number.
my $writer = $node->background_psql('postgres');
$writer->query_safe(q{BEGIN; SELECT whisperer.deliver_event('{"by": "writer"}', 't')});
my $seer = $node->background_psql('postgres');
$seer->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1});
$node->safe_psql('postgres', q{SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions WHERE event_type = 't'});
scans(3);
$seer->query_safe(q{SELECT whisperer.deliver_event('{"by": "seer"}', 't')});
scans(3);
$writer->query_safe('COMMIT');
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE state = 'cancelled'}, '3');
scans(3);
$seer->query_safe('COMMIT');
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE state = 'cancelled'}, '6');
pass('stragglers are cancelled');

# A backlog that nobody looks at, and subscriptions that have ended.
$node->safe_psql('postgres', q{
	SELECT whisperer.update_subscription(id, '{"is_active": true}') FROM whisperer.subscriptions WHERE event_type = 'other';
	SELECT count(whisperer.deliver_event('{}'::jsonb, 'other')) FROM generate_series(1, 20000);
	SELECT whisperer.update_subscription(id, '{"is_active": false}') FROM whisperer.subscriptions WHERE event_type = 'other';
	SELECT whisperer.unsubscribe(whisperer.subscribe('t', 'http://192.0.2.2/' || n)) FROM generate_series(1, 500) n;});
scans(4);
my $before = rows_read();
scans(3);
cmp_ok(rows_read() - $before, '<', 500, 'neither is walked through again and again');

$writer->quit;
$seer->quit;
$node->stop;
done_testing();
