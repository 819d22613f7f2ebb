# A workload that nobody here wrote: pgbench's standard transaction, and a custom one of which a tenth
# rolls back and a tenth rolls back to a savepoint.  Every committed history row arrives exactly once at
# each of three subscribers, nothing arrives for the others, and every signature is verified by somebody
# else's code.  WHISPERER_PGBENCH_TRANSACTIONS=20000 (make pgbench-full) for the full size.
use strict;
use warnings;

use JSON::XS qw(decode_json);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $transactions = $ENV{WHISPERER_PGBENCH_TRANSACTIONS} || 1600;
my $clients = 8;
my $each = int($transactions / $clients);
my $secret = 'whsec_' . 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "shared_buffers = 128MB\nmax_wal_size = 4GB\nwhisperer.request_timeout = 600");

# pgbench's tables as they are, but for a column that tells history rows apart.
$node->command_ok([ 'pgbench', '-i', '-q', '-s', '4', 'postgres' ], 'pgbench initialised');
$node->safe_psql(
	'postgres', qq{
	ALTER TABLE pgbench_history ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY;
	SELECT whisperer.register_event_type('history-written');
	SELECT whisperer.attach('pgbench_history', 'history-written');
	SELECT whisperer.subscribe('history-written', '@{[$receiver->url('/one')]}');
	SELECT whisperer.subscribe('history-written', '@{[$receiver->url('/two')]}', '$secret');
	SELECT whisperer.subscribe('history-written', '@{[$receiver->url('/three')]}');
});

my $script = "$PostgreSQL::Test::Utils::tmp_check/rollbacks.sql";
append_to_file(
	$script, q{
\set aid random(1, 400000)
\set bid random(1, 4)
\set tid random(1, 40)
\set delta random(-5000, 5000)
\set dice random(1, 10)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
\if :dice = 1
ROLLBACK;
\elif :dice = 2
SAVEPOINT s;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, 99999, CURRENT_TIMESTAMP);
ROLLBACK TO SAVEPOINT s;
END;
\else
END;
\endif
});

my $start = time();
# -n: without it pgbench empties the history first.
$node->command_ok([ 'pgbench', '-n', '-c', $clients, '-j', 2, '-t', $each, 'postgres' ], 'the standard transaction');
$node->command_ok([ 'pgbench', '-n', '-c', $clients, '-j', 2, '-t', $each, '-f', $script, 'postgres' ],
	'the one with rollbacks');
my $written = time();
$node->wait_settled('postgres', 600);
my $settled = time();

my @committed = split /\n/, $node->safe_psql('postgres', 'SELECT id FROM pgbench_history ORDER BY id');
my $used = $node->safe_psql('postgres', q{SELECT last_value FROM pgbench_history_id_seq});
note sprintf '%d rows committed of %d written in %.1f s; settled %.1f s later',
  scalar @committed, $used, $written - $start, $settled - $written;
cmp_ok(scalar @committed, '>', 1.7 * $each * $clients, 'most rows were committed');
cmp_ok(scalar @committed, '<', $used, 'and some were rolled back');

for my $path ('/one', '/two', '/three')
{
	# The signature of what has one; the others must have none.
	my @arrived;
	if ($path eq '/two')
	{
		my @verified = $receiver->verify($path, $secret, 'id');
		my @bad = grep { $_->[1] ne 'ok' } @verified;
		is(scalar @bad, 0, "$path: every signature verified") or diag "@{$bad[0]}";
		@arrived = map { $_->[2] } @verified;
	}
	else
	{
		my @requests = $receiver->requests(path => $path);
		is(scalar(grep { $_->{header}{'webhook-signature'} } @requests), 0, "$path: no signature");
		@arrived = map { decode_json($_->{body})->{payload}{id} } @requests;
	}
	is(scalar @arrived, scalar @committed, "$path: as many requests as committed rows");
	# Compared as text: thousands of lines of difference help nobody.
	my $same = join(' ', sort { $a <=> $b } @arrived) eq join(' ', @committed);
	ok($same, "$path: each committed row exactly once, and nothing else");
}

my $expected = 3 * @committed;
# Counted a moment after it can be seen.
$node->poll_until('postgres', 'SELECT deliveries, delivered, failed, cancelled FROM whisperer.statistics', "$expected|$expected|0|0");
pass('statistics agree');
is( $node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT uuid), bool_and(retry_count = 1)
		FROM whisperer.webhook_events WHERE delivered}),
	"$expected|$expected|t", 'the views agree: each at the first attempt');

done_testing();
