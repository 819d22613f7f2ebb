# Calls that were made long ago, whose rows an open transaction keeps, are not walked over by a process that looks for others, though
# it has never met their owner.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => 'autovacuum = off');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql(q{
	CREATE TABLE called (n int);
	GRANT ALL ON called TO PUBLIC;
	CREATE FUNCTION note(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO public.called VALUES ((instance->>'n')::int) $$});
for my $type (qw(earlier later))
{
	sql("CREATE ROLE $type; SELECT whisperer.register_event_type('$type'); SELECT whisperer.grant_access('$type', 'subscribe')");
	sql("SET ROLE $type; SELECT whisperer.subscribe('$type', '@{[$receiver->url(qq(/$type))]}', callback => 'note')");
}
my $number = 0;
sub call
{
	my ($type, $count) = @_;
	sql("SELECT count(whisperer.deliver_event(jsonb_build_object('n', n), '$type')) FROM generate_series(@{[$number + 1]}, @{[$number += $count]}) n");
	$node->poll_until('postgres', 'SELECT count(*) FROM called', $number);
	return;
}

# What was read of the queue's index so far, when the process that calls callbacks, which there is, has said so before it left.
sub reads
{
	my $processes = q{FROM pg_stat_activity WHERE backend_type = 'whisperer callback'};
	sql("SELECT pg_terminate_backend(pid) $processes");
	$node->poll_until('postgres', "SELECT count(*) $processes", '0');
	return sql(q{SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'job_queue'});
}

my $rows = 1000;
my $looks = 20;
my $holder = $node->background_psql('postgres');
$holder->query_safe($_) for 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1';
call('earlier', $rows);
my $before = reads();
call('later', 1) for 1 .. $looks;
my $read = reads() - $before;
note "$read entries were read for $looks calls";
# When a process starts it looks once, or twice, at everything.
cmp_ok($read, '<', $rows * $looks / 4, 'calls of an owner unknown to the process are not walked over each time');
cmp_ok($read, '>=', $looks, '... and it was this index that was read');

$holder->quit;
$node->stop;
done_testing();
