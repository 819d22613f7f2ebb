# The delivery worker reads its queue by the index that is made for it, however many dead rows an open transaction keeps in the tables
# and whatever ANALYZE makes of them: an index that is there for views would be walked from end to end for each read.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => 'autovacuum = off');
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $rows = 20_000;
sql(q{SELECT whisperer.register_event_type('t')});
$receiver->behave(path => '/flaky', per => 'webhook-id', steps => [ { status => 500 }, { status => 200 } ]);
sql(qq{SELECT whisperer.subscribe('t', '@{[$receiver->url($_)]}', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0.01}}')})
  for '/plain', '/flaky';
sub deliver { sql("SELECT count(whisperer.deliver_event('{}'::jsonb, 't')) FROM generate_series(1, $_[0])"); $node->wait_settled; return; }

my $holder = $node->background_psql('postgres');
$holder->query_safe($_) for 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1';
deliver($rows);
# Now it takes the tables for small ones again, whose indexes cost as much as they are large.
sql('VACUUM ANALYZE whisperer.delivery');

# What was read of each index so far, when everybody has said so.
sub reads
{
	my ($old) = $node->delivery_pids('postgres');
	sql("SELECT pg_terminate_backend($old)"); # it says what it has read before it leaves
	$node->poll_until('postgres', qq{SELECT pid <> $old FROM whisperer.workers WHERE kind = 'delivery' AND pid IS NOT NULL});
	return map { split /\|/ } split /\n/, sql(q{
		SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes WHERE relname = 'delivery'});
}
my %before = reads();
deliver(50) for 1 .. 10;
my %after = reads();
note map { "$_: @{[$after{$_} - $before{$_}]}\n" } sort keys %after;
cmp_ok($after{"delivery_by_$_"} - $before{"delivery_by_$_"}, '<', $rows, "by_$_ is not walked") for qw(subscription created modified);
cmp_ok($after{delivery_new} - $before{delivery_new}, '>=', 1000, 'the reads were by the index of what is new');

$holder->quit;
$node->stop;
done_testing();
