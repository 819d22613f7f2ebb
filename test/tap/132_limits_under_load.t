# What a server can run out of, and a server that takes no writes by default, under load: worker slots, connections. Deliveries
# go on as far as they can, and all of it when there is room again.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $connections = 15;
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main',
	settings => "$Whisperer::Ledger::settings\nmax_connections = $connections\nmax_wal_senders = 0");
my $ledger = Whisperer::Ledger->new($node, $receiver);

for my $round (1 .. Whisperer::Ledger::repetitions(5, 125))
{
	# --- default_transaction_read_only = on: the workers' own transactions write all the same
	$node->safe_psql('postgres', $_)
	  for 'ALTER SYSTEM SET default_transaction_read_only = on', 'SELECT pg_reload_conf()';
	like(($node->psql('postgres', q{INSERT INTO ledger (note) VALUES ('refused')}))[2],
		qr/cannot execute INSERT in a read-only transaction/, 'read-only by default');
	{
		local $ENV{PGOPTIONS} = '-c default_transaction_read_only=off';
		$ledger->start(seconds => 1, prepared => 1);
		# Also a worker that starts now.
		$ledger->disrupt(sub { $node->safe_psql('postgres', 'SELECT pg_terminate_backend(' . ($node->delivery_pids('postgres'))[0] . ')') });
		$ledger->finish;
		$ledger->judge("round $round, read-only by default");
		$node->safe_psql('postgres', 'ALTER SYSTEM RESET default_transaction_read_only');
	}
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	$node->poll_until('postgres', 'SHOW default_transaction_read_only', 'off');
	$ledger->turn_page;

	# --- every connection is taken: a worker that ends then comes back
	my $admin = $node->background_psql('postgres');
	$ledger->start(seconds => 2);
	my @sessions;
	my $refused = 0;
	for (1 .. $connections)
	{
		my $session = eval { $node->background_psql('postgres', on_error_die => 0) };
		my $answer = $session && eval { $session->query('SELECT 1') };
		push @sessions, $session if $answer;
		last if $refused = !$answer;
	}
	ok($refused, 'there are no connections left');
	my $workers = q{SELECT pid FROM whisperer.workers WHERE kind = 'delivery'};
	my $pid = $admin->query_safe($workers);
	$ledger->disrupt(sub { $admin->query_safe("SELECT pg_terminate_backend($pid)") });
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	my $now = '';
	until ($now =~ /^\d+$/ && $now != $pid || time() > $end) { $now = $admin->query_safe("$workers AND pid IS NOT NULL"); usleep(20_000); }
	isnt($now, $pid, 'a worker needs none of them to come back');
	my $before = $receiver->count;
	$admin->query_safe(q{INSERT INTO ledger (note) VALUES ('at the limit')});
	is($admin->query_safe(q{SELECT whisperer.wait_until_settled('60 s')}), 't', 'deliveries and user functions go on at the limit');
	cmp_ok($receiver->count, '>', $before, 'they were sent');
	$_->quit for @sessions, $admin;
	$ledger->finish;
	$ledger->judge("round $round, no connections left");
	$ledger->turn_page;

	# --- a database and a role that take no connections of ordinary users
	$node->safe_psql('postgres', 'ALTER DATABASE postgres CONNECTION LIMIT 0');
	$ledger->start(seconds => 1);
	$ledger->disrupt(sub { $node->restart });
	$ledger->finish;
	$ledger->judge("round $round, CONNECTION LIMIT 0");
	$node->safe_psql('postgres', 'ALTER DATABASE postgres CONNECTION LIMIT -1');
	$ledger->turn_page;

	# --- one worker slot for everything: deliveries go, by the default schedule; callbacks wait
	$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
	my $log = $node->log_position;
	$node->restart;
	$node->delivery_pids('postgres');
	$ledger->start(seconds => 1, rate => 30);
	$ledger->finish;
	$node->wait_settled;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM called'), 0, 'no slot: no callback');
	cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM whisperer.job'), '>', 0, 'they wait');
	my $said = () = $node->log_since($log) =~ /whisperer has no background worker slot/g;
	cmp_ok($said, '>=', 1, 'the log says so');
	cmp_ok($said, '<=', 2, 'once for each kind of process');
	like($node->log_since($log), qr/HINT:  Increase max_worker_processes \(now 3\)/, 'and what to increase');
	$node->append_conf('postgresql.conf', 'max_worker_processes = 32');
	$node->restart;
	$ledger->judge("round $round, worker slots again");
	$ledger->turn_page;
}

unlike($node->log_since(0), qr/PANIC|was terminated by signal|exited with exit code (?![01]\b)/, 'no process came to harm');
$node->stop;
done_testing();
