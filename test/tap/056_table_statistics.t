# What autovacuum goes by, the numbers of rows written in pg_stat_user_tables, has each delivery's soon after it, also when it was the
# last one for hours, whichever worker made it.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "whisperer.workers = 2\nautovacuum = off");
sub sql { return $node->safe_psql('postgres', $_[0]); }

# Some for each worker (shard 0 saves its counters every ten seconds, and hands these on with them; the other saves nothing), and
# several within the second for which PostgreSQL keeps such numbers back.
my ($types, $events) = (6, 3);
sql("SELECT whisperer.register_event_type('t$_'); SELECT whisperer.subscribe('t$_', '@{[$receiver->url(qq(/$_))]}')") for 1 .. $types;
$node->delivery_pids('postgres', 2);
my $wanted = 0;
for my $type (map { "t$_" } 1 .. $types)
{
	for (1 .. $events)
	{
		sql("SELECT whisperer.deliver_event('{}'::jsonb, '$type')");
		$node->wait_settled;
		$wanted++;
	}
	$node->poll_until('postgres', "SELECT n_tup_del FROM pg_stat_user_tables WHERE relid = 'whisperer.delivery'::regclass", $wanted);
	$node->poll_until('postgres', "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'whisperer.history'::regclass", $wanted);
	pass("$type: deliveries are counted");
}

$node->stop;
done_testing();
