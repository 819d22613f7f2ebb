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
# Somebody who is no superuser, with a subscription, a countdown and a callback of his own.
$ledger->sql(qq{
	CREATE ROLE limited LOGIN CONNECTION LIMIT 0;
	CREATE ROLE ordinary LOGIN;
	CREATE SCHEMA limited AUTHORIZATION limited;
	SELECT whisperer.grant_access('limited', 'subscribe', 'ledger');
	SET ROLE limited;
	CREATE TABLE limited.called (uuid uuid);
	CREATE FUNCTION limited.called_back(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		\$\$ INSERT INTO limited.called VALUES ((response->>'event_uuid')::uuid) \$\$;
	SELECT whisperer.subscribe('ledger', '@{[$receiver->url('/limited')]}', callback => 'limited.called_back')});

# The delivery worker leaves, and another one comes, without a pause after it, since somebody has changed something. What is in
# flight may end before: no disruption.
my $changes = 100;
sub another_worker
{
	my ($ask) = @_;
	my $workers = q{SELECT pid FROM whisperer.workers WHERE kind = 'delivery' AND pid IS NOT NULL};
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	my ($before, $now) = ($ask->($workers), '');
	$ask->('ALTER DATABASE postgres SET whisperer.max_attempts = ' . ++$changes);
	until ($now =~ /^\d+$/ && $now ne $before || time() > $end) { usleep(10_000); $now = $ask->($workers); }
	return $now =~ /^\d+$/ && $now ne $before;
}
my $as_anybody = sub { return $node->safe_psql('postgres', $_[0]) };

sub again_and_again
{
	my ($times, $ask, $what) = @_;
	is(scalar(grep { $ledger->random_moment(0.1); another_worker($ask) } 1 .. $times), $times, "$what: a worker that goes comes back");
	return;
}

for my $times (Whisperer::Ledger::pages(20, 500))
{
	# --- default_transaction_read_only = on: the workers' own transactions write all the same, also a worker's that starts now
	$node->safe_psql('postgres', $_)
	  for 'ALTER SYSTEM SET default_transaction_read_only = on', 'SELECT pg_reload_conf()';
	like(($node->psql('postgres', q{INSERT INTO ledger (note) VALUES ('refused')}))[2],
		qr/cannot execute INSERT in a read-only transaction/, 'read-only by default');
	{
		local $ENV{PGOPTIONS} = '-c default_transaction_read_only=off';
		$ledger->start(prepared => 1);
		$ledger->begun;
		again_and_again($times, $as_anybody, 'read-only by default');
		$ledger->finish;
		$ledger->judge("read-only by default, $times new workers");
		$node->safe_psql('postgres', 'ALTER SYSTEM RESET default_transaction_read_only');
	}
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	$node->poll_until('postgres', 'SHOW default_transaction_read_only', 'off');
	$ledger->turn_page;

	# --- every connection is taken
	my $admin = $node->background_psql('postgres');
	$ledger->start;
	$ledger->begun;
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
	again_and_again($times, sub { $admin->query_safe($_[0]) }, 'no connections left');
	my $id = $admin->query_safe(q{INSERT INTO ledger (note) VALUES ('at the limit') RETURNING id});
	is($admin->query_safe(q{SELECT whisperer.wait_until_settled('60 s')}), 't', 'deliveries and user functions go on at the limit');
	is($admin->query_safe(qq{SELECT count(*) FROM whisperer.webhook_events WHERE request_payload->'payload'->>'id' = '$id' AND delivered}), '3',
		'that row has been delivered, too');
	$_->quit for @sessions, $admin;
	$ledger->finish;
	$ledger->judge("no connections left, $times new workers");
	$ledger->turn_page;

	# --- a database and a role that take no connections of ordinary users
	$node->safe_psql('postgres', 'ALTER DATABASE postgres CONNECTION LIMIT 0');
	my %reason = (limited => 'role "limited"', ordinary => 'database "postgres"');
	like(($node->psql('postgres', 'SELECT 1', extra_params => [ '-U', $_ ]))[2], qr/too many connections for $reason{$_}/, "refused: $_")
	  for sort keys %reason;
	$ledger->start;
	$ledger->begun;
	again_and_again($times, $as_anybody, 'CONNECTION LIMIT 0');
	$ledger->finish;
	$node->restart;
	my $rows = $ledger->judge("CONNECTION LIMIT 0 of the database and of a role, $times new workers");
	is($ledger->sql(q{SELECT count(*) FILTER (WHERE delivered), (SELECT count(*) FROM limited.called c WHERE c.uuid IN (
			SELECT uuid FROM whisperer.webhook_events)) FROM whisperer.webhook_events WHERE target_url ~ '/limited$'}),
		"$rows|$rows", "that role's deliveries and callbacks are made");
	$node->safe_psql('postgres', 'ALTER DATABASE postgres CONNECTION LIMIT -1');
	$ledger->turn_page;
}

# --- two restarts each time: not as often
for my $round (1 .. Whisperer::Ledger::repetitions(5, 125))
{
	# --- one worker slot for everything: deliveries go, by the default schedule; callbacks wait
	$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
	my $log = $node->log_position;
	$node->restart;
	$node->delivery_pids('postgres');
	$ledger->start(rate => 30);
	$ledger->begun;
	$ledger->written(20);
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
