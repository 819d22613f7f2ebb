# What a server can run out of, and a server that takes no writes by default, under load: worker slots, connections. Deliveries
# go on as far as they can, and all of it when there is room again.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $connections = 10;
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
my $changes = 0;
sub another_worker
{
	my ($ask) = @_;
	my $workers = q{SELECT pid FROM whisperer.workers WHERE kind = 'delivery' AND pid IS NOT NULL};
	my $before = $ask->($workers);
	$ask->('ALTER DATABASE postgres SET whisperer.max_attempts = ' . (100 + ++$changes % 900));
	return $node->await(sub { my $now = $ask->($workers); $now =~ /^\d+$/ && $now ne $before }, 'another worker');
}

# So often: the limit is reached, a worker goes and another one comes, the limit is still there, and goes.
sub again_and_again
{
	my ($times, $what, %limit) = @_;
	my ($reached, $back) = (0, 0);
	for (1 .. $times)
	{
		$limit{begin}->();
		$reached += $limit{there}->();
		$ledger->random_moment(0.1);
		$back += another_worker($limit{ask});
		$reached += $limit{there}->();
		$limit{end}->();
	}
	is($reached, 2 * $times, "$what: before and after each new worker");
	is($back, $times, "$what: a worker that goes comes back");
	return;
}

# What a session is told that begins now, or that wants to write. The one before it may not have left yet: then there is none but those
# that are reserved.
sub told
{
	my ($user, $statement) = @_;
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	my $errors;
	do { (undef, undef, $errors) = $node->psql('postgres', $statement // 'SELECT 1', extra_params => [ '-U', $user ]) }
	while ($errors =~ /remaining connection slots are reserved/ && time() < $end);
	return $errors;
}

# A session that is there before a limit is, and asks as long as it likes.
sub admin
{
	my $admin = $node->background_psql('postgres');
	return ($admin, sub { return $admin->query_safe($_[0]) });
}

# Until the query counts none.
sub await_none { my ($ask, $query) = @_; return $node->await(sub { $ask->($query) eq '0' }, "none: $query"); }

for my $times (Whisperer::Ledger::pages(20, 500))
{
	# --- default_transaction_read_only = on: the workers' own transactions write all the same, also a worker's that starts now
	{
		local $ENV{PGOPTIONS} = '-c default_transaction_read_only=off';
		$ledger->start(prepared => 1, rate => 40, seconds => 600);
		$ledger->begun;
		my ($admin, $ask) = admin();
		my $set = sub {
			my ($change, $value) = @_;
			$ask->($_) for "ALTER SYSTEM $change", 'SELECT pg_reload_conf()';
			local $ENV{PGOPTIONS} = '';
			$node->poll_until('postgres', 'SHOW default_transaction_read_only', $value);
		};
		again_and_again($times, 'read-only by default', ask => $ask,
			begin => sub { $set->('SET default_transaction_read_only = on', 'on') },
			there => sub {
				local $ENV{PGOPTIONS} = '';
				return told('postgres', q{INSERT INTO ledger (note) VALUES ('refused')}) =~ /cannot execute INSERT in a read-only transaction/;
			},
			end => sub { $set->('RESET default_transaction_read_only', 'off') });
		# What was raised last is delivered when it is so.
		$set->('SET default_transaction_read_only = on', 'on');
		$ledger->stop_load;
		$ledger->finish;
		$ledger->judge("read-only by default, $times new workers");
		$set->('RESET default_transaction_read_only', 'off');
		$admin->quit;
	}
	$ledger->turn_page;

	# --- every connection is taken
	my ($admin, $ask) = admin();
	$ledger->start(rate => 40, seconds => 600);
	$ledger->begun;
	my $others = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()};
	my @sessions;
	# Besides this one and the load's: one that is leaving may still have its connection.
	my $take = sub {
		my $free = $connections - 1 - ($ledger->{load} ? $ledger->{load}->sessions : 0);
		my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
		while (@sessions < $free && time() < $end)
		{
			my $session = eval { $node->background_psql('postgres', on_error_die => 0) };
			my $answer = $session && eval { $session->query('SELECT 1') };
			push @sessions, $session if $answer;
		}
	};
	my $give_back = sub {
		$_->quit for splice @sessions;
		await_none($ask, "$others AND application_name NOT LIKE 'ledger %'");
	};
	again_and_again($times, 'no connections left', ask => $ask, begin => $take, end => $give_back,
		there => sub { return told('postgres') =~ /too many clients already/ });
	# Without the load, which would never be settled on a slow machine; what its sessions had is taken, too.
	$ledger->stop_load;
	await_none($ask, $others);
	$take->();
	my $id = $ask->(q{INSERT INTO ledger (note) VALUES ('at the limit') RETURNING id});
	my $patience = int 0.8 * $PostgreSQL::Test::Utils::timeout_default;
	is($ask->("SELECT whisperer.wait_until_settled('$patience s')"), 't',
		'deliveries and user functions go on at the limit');
	is($ask->(qq{SELECT count(*) FROM whisperer.webhook_events WHERE request_payload->'payload'->>'id' = '$id' AND delivered}), '3',
		'that row has been delivered, too');
	like(told('postgres'), qr/too many clients already/, 'and no connection was free meanwhile');
	$give_back->();
	$admin->quit;
	$ledger->finish;
	$ledger->judge("no connections left, $times new workers");
	$ledger->turn_page;

	# --- a database and a role that take no connections of ordinary users
	($admin, $ask) = admin();
	my $limit = sub { $ask->($_) for "ALTER DATABASE postgres CONNECTION LIMIT $_[0]", "ALTER ROLE limited CONNECTION LIMIT $_[0]" };
	my %reason = (limited => 'role "limited"', ordinary => 'database "postgres"');
	$ledger->start(rate => 40, seconds => 600);
	$ledger->begun;
	again_and_again($times, 'CONNECTION LIMIT 0', ask => $ask, begin => sub { $limit->(0) }, end => sub { $limit->(-1) },
		there => sub { return 2 == grep { told($_) =~ /too many connections for $reason{$_}/ } keys %reason });
	$limit->(0);
	$admin->quit;
	$ledger->stop_load;
	$ledger->finish;
	$ledger->patiently(sub { $node->stop });
	$node->start;
	my $rows = $ledger->judge("CONNECTION LIMIT 0 of the database and of a role, $times new workers");
	is($ledger->sql(q{SELECT count(*) FILTER (WHERE delivered), (SELECT count(*) FROM limited.called c WHERE c.uuid IN (
			SELECT uuid FROM whisperer.webhook_events)) FROM whisperer.webhook_events WHERE target_url ~ '/limited$'}),
		"$rows|$rows", "that role's deliveries and callbacks are made");
	$node->safe_psql('postgres', $_) for 'ALTER DATABASE postgres CONNECTION LIMIT -1', 'ALTER ROLE limited CONNECTION LIMIT -1';
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
