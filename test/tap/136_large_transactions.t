# 10,000 savepoints in a transaction, half of them rolled back; and a transaction that raises 100,000 events (1,000,000 in `make
# test-long`): exactly the committed ones arrive, once, and the worker's memory does not grow with what waits.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Processes qw(private_memory);
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "$Whisperer::Ledger::settings\nmax_wal_size = 4GB\nwhisperer.request_timeout = 600");
my $ledger = Whisperer::Ledger->new($node, $receiver);

# --- savepoints
my $savepoints = 10_000;
my $inserts = join '', map {
	"SAVEPOINT s; INSERT INTO ledger (note) VALUES ('savepoint $_'); " . ($_ % 2 ? "RELEASE SAVEPOINT s;\n" : "ROLLBACK TO SAVEPOINT s;\n")
} 1 .. $savepoints;
$ledger->sql("BEGIN;\n${inserts}COMMIT;");
is($ledger->judge('10,000 savepoints'), $savepoints / 2, 'half of them committed');
is($ledger->{again}, 0, 'each once');
$ledger->turn_page;
$ledger->sql(qq{
	BEGIN;
	DO \$\$ BEGIN
		FOR n IN 1 .. $savepoints LOOP
			BEGIN
				INSERT INTO ledger (note) VALUES ('subtransaction');
				IF n % 2 = 0 THEN RAISE 'back'; END IF;
			EXCEPTION WHEN raise_exception THEN NULL;
			END;
		END LOOP;
	END \$\$;
	ROLLBACK});
$ledger->sql(q{INSERT INTO ledger (note) VALUES ('raised later')});
is($ledger->judge('rolled back as a whole'), 1, 'none of them');
$ledger->turn_page;

# --- a million events
my $events = $ENV{WHISPERER_LONG} ? 1_000_000 : 100_000;
$node->safe_psql('postgres', qq{
	CREATE TABLE item (n integer);
	SELECT whisperer.register_event_type('item');
	SELECT whisperer.attach('item', 'item');
	SELECT whisperer.subscribe('item', '@{[$receiver->url('/item')]}')});
my ($pid) = $node->delivery_pids('postgres');
my $memory_before = private_memory($pid);
my $start = time();
$node->safe_psql('postgres', "INSERT INTO item SELECT n FROM generate_series(1, $events) n");
my $written = time();
# Its memory while they wait: the largest that is seen.
my ($most, $left) = (0, $events);
my %times;
my $take = sub { $times{ $_->{id} }++ for $receiver->requests(brief => 1, forget => 1) };
while ($left > 0)
{
	my $memory = private_memory($pid);
	$most = $memory if $memory > $most;
	$left = $node->safe_psql('postgres', q{SELECT pending FROM whisperer.subscription_health WHERE event_type = 'item'});
	$take->();
	die 'too slow' if time() > $start + 1800;
}
$node->wait_settled;
$take->();
note sprintf '%d events: raised in %.1f s, delivered %.1f s later; private memory %.1f MB before, %.1f MB at most',
  $events, $written - $start, time() - $written, $memory_before, $most;
is(scalar keys %times, $events, 'every event has arrived');
is(scalar(grep { $_ > 1 } values %times), 0, 'once');
is( $node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT request_payload->'payload'->>'n'), bool_and(delivered AND retry_count = 1)
		FROM whisperer.webhook_events WHERE event_type = 'item'}),
	"$events|$events|t", 'as many are in the views, each of another row, delivered at the first attempt');
is(scalar(grep { $_ eq $pid } $node->delivery_pids('postgres')), 1, 'by one and the same worker');
cmp_ok($most, '<', $memory_before + 16, 'what waits does not take its memory (MB)');
unlike($node->log_since(0), qr/PANIC|was terminated by signal/, 'no process came to harm');

$node->stop;
done_testing();
