# The delivery worker reads its queue by the indexes that are made for it, from where it was, however many dead rows an open
# transaction keeps in the tables, however long the history, whatever ANALYZE makes of them, and whoever else has not committed yet:
# what it reads grows with what it sends and with nothing else.
use strict;
use warnings;

use List::Util qw(sum);
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "autovacuum = off\nwhisperer.request_timeout = 600");
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $rows = 20_000;
sql(q{SELECT whisperer.register_event_type('t')});
$receiver->behave(path => '/flaky', per => 'webhook-id', steps => [ { status => 500 }, { status => 200 } ]);
sql(qq{SELECT whisperer.subscribe('t', '@{[$receiver->url($_)]}', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0.01}}')})
  for '/plain', '/flaky';

# Raises some and waits until they are recorded, which is counted in shared memory: no question is put to the tables.
my $delivered = 0;
sub deliver
{
	my ($number) = @_;
	sql("SELECT count(whisperer.deliver_event('{}'::jsonb, 't')) FROM generate_series(1, $number)");
	$delivered += 2 * $number;
	# 60,000 requests are many for a slow machine.
	$node->poll_until('postgres', 'SELECT delivered FROM whisperer.statistics', $delivered, 5 * $PostgreSQL::Test::Utils::timeout_default);
	# With that state it says what it has read.
	$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'idle');
	return;
}

# Entries read of each index, dead ones too, and rows read without one.
sub reads
{
	my %reads = map { split /\|/ } split /\n/, sql(q{
		SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes WHERE schemaname = 'whisperer'
		UNION ALL SELECT 'from end to end', sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname IN ('delivery', 'history', 'event')});
	return \%reads;
}

# Doing something has read no more than there was to do: of the queue each row once, and as many again for the ends of what was looked
# through. once: what is walked over one time, and never again.
sub reads_are_bounded
{
	my ($name, $new, $retries, $work, $once) = @_;
	my $before = reads();
	$work->();
	my $after = reads();
	# It may say the last of it with the next only.
	for (1 .. 20)
	{
		last if $after->{delivery_new} >= $before->{delivery_new} + $new;
		deliver(1);
		$after = reads();
	}
	my $added = { map { $_ => $after->{$_} - $before->{$_} } keys %$after };
	note join "\n", "$name:", map { "$_: $added->{$_}" } grep { $added->{$_} } sort keys %$added;
	cmp_ok($added->{delivery_new}, '>=', $new, "$name: what is new is read by its index");
	cmp_ok($added->{delivery_new}, '<', 2 * $new + 200 + ($once // 0), "$name: each once");
	cmp_ok($added->{delivery_retry}, '>=', $retries, "$name: retries by the index of what is due");
	cmp_ok($added->{delivery_retry}, '<', 3 * $retries + 200, "$name: past nothing else");
	# To lock, update and delete; a row has several versions.
	cmp_ok($added->{delivery_pkey}, '<', 10 * ($new + $retries) + 200, "$name: results are recorded where the rows are");
	cmp_ok($added->{event_pkey} + $added->{history_pkey}, '<', 2 * ($new + $retries) + 200, "$name: events are found by their key");
	my @others = grep { /^(delivery|history|event)_(?!pkey|new|retry|type)/ } keys %$added;
	is(sum(@$added{@others}), 0, "$name: no other index of the tables that grow is read");
	is($added->{'from end to end'}, 0, "$name: nor any from end to end");
	return;
}

my $holder = $node->background_psql('postgres');
$holder->query_safe($_) for 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1';
deliver($rows);
# Now it takes the tables for small ones again, whose indexes cost as much as they are large.
sql('VACUUM ANALYZE whisperer.delivery');
deliver(10);
reads_are_bounded("$rows dead rows of each, as many in the history", 1000, 500, sub { deliver(50) for 1 .. 10 });

# --- what is cancelled for a subscription that ends is found among it, too
$receiver->behave(path => '/hangs', steps => [ { hang => 'request' } ]);
sql(qq{SELECT whisperer.register_event_type('ended'); SELECT whisperer.subscribe('ended', '@{[$receiver->url('/hangs')]}')});
sql(q{SELECT count(whisperer.deliver_event('{}'::jsonb, 'ended')) FROM generate_series(1, 300)});
$receiver->await('/hangs', 1);
my $before = reads();
sql(q{SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions WHERE event_type = 'ended'});
$node->poll_until('postgres', q{SELECT cancelled FROM whisperer.statistics}, '300');
$receiver->release;
$delivered++; # the one that was under way
$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'idle');
deliver(5);
cmp_ok(reads()->{delivery_pkey} - $before->{delivery_pkey}, '<', $rows / 4, 'nobody walks over the primary key to cancel them');

# --- somebody has raised as many and has not committed
my $writer = $node->background_psql('postgres');
$writer->query_safe("BEGIN; SELECT count(whisperer.deliver_event('{}'::jsonb, 't')) FROM generate_series(1, $rows)");
reads_are_bounded("beside $rows events not committed", 200, 100, sub { deliver(5) for 1 .. 20 });
$writer->query_safe('ROLLBACK');
reads_are_bounded('when they are rolled back', 200, 100, sub { deliver(5) for 1 .. 20 }, 2 * $rows);

$writer->quit;
$holder->quit;
$node->stop;
done_testing();
