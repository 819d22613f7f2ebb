# Processes killed, backends ended and servers shut down at random moments under load, each many times: nothing is lost, nothing is
# sent again but what was in flight, nothing at all where the end is a graceful one (unless its patience with receivers has passed),
# and no other process ends than the one we ended (after a SIGKILL PostgreSQL itself restarts all; without its postmaster, all leave).  WHISPERER_SEED repeats a run's moments.
use strict;
use warnings;

use IPC::Run ();
use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $request_timeout = 60;
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "$Whisperer::Ledger::settings\nwhisperer.request_timeout = $request_timeout");
my $ledger = Whisperer::Ledger->new($node, $receiver);
$node->safe_psql('postgres', 'CREATE DATABASE other');
# What hangs until its sender is gone; sent once more, it is answered.
$receiver->behave(path => '/hangs', per => 'webhook-id', steps => [ { hang => 'request' }, { status => 200 } ]);
$ledger->sql(qq{
	SELECT whisperer.register_event_type('hangs');
	SELECT whisperer.subscribe('hangs', '@{[$receiver->url('/hangs')]}')});

# --- whom: each brings such a process, and returns its id, and how it is left

# These come and go within milliseconds: what makes one come, and a lock that it waits for in its database.
my $changes = 0;
sub another_number { return 100 + ++$changes % 900; } # also after a thousand
my %fleeting = (
	probe => {
		database => 'other',
		lock => 'LOCK TABLE pg_extension',
		come => sub { 'ALTER DATABASE other SET whisperer.max_attempts = ' . another_number() },
	},
	maintenance => {
		database => 'postgres',
		lock => 'LOCK TABLE whisperer.function_failure IN SHARE MODE',
		come => sub { "ALTER SYSTEM SET whisperer.retention = '@{[another_number()]} weeks'", 'SELECT pg_reload_conf()' },
	});

sub fleeting_process
{
	my ($kind) = @_;
	my $fleeting = $fleeting{$kind};
	my $holder = $node->background_psql($fleeting->{database}, on_error_die => 0);
	$holder->query_safe($_) for 'BEGIN', $fleeting->{lock};
	$node->safe_psql('postgres', $_) for $fleeting->{come}->();
	# The session may be gone with the server.
	return (standing_process($kind), sub { eval { $holder->quit } });
}

# One that leaves within a second of its start, again and again, is started later and later.
my $long_there = q{FROM whisperer.workers WHERE kind = 'delivery' AND pid IS NOT NULL AND started < clock_timestamp() - interval '1 s'};
sub delivery_worker
{
	$node->poll_until('postgres', "SELECT count(*) $long_there", '1');
	return standing_process('delivery');
}
# What was in flight alone at a crash goes alone again, a while after the start, and is given up when it is so at three of them: all
# that was there at the start has had its turn.
sub delivery_worker_without_suspects
{
	$node->poll_until('postgres', "SELECT count(*) $long_there AND NOT EXISTS (SELECT FROM whisperer.pending p WHERE p.created_date < started)", '1');
	return standing_process('delivery');
}

# A call that was under way at three kills of its process is given up: one that was so at two has had its turn.
sub callback_worker_without_suspects
{
	$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.job WHERE runs >= 8}, '0');
	return standing_process('callback');
}

sub standing_process { return $node->safe_psql('postgres', "SELECT process_seen('whisperer $_[0]', '10 s')"); }

# One of the load's, in the middle of its work if there is such a one.
sub loading_session
{
	return $node->safe_psql('postgres', q{
		SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'ledger %' ORDER BY state IN ('active', 'idle in transaction') DESC, random() LIMIT 1});
}

# One that waits for the response to what it sends itself.
sub synchronous_session
{
	my $arrived = $receiver->count(path => '/hangs');
	my $session = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres') . ' application_name=synchronous',
			'-c', q{SELECT whisperer.deliver_event('{}', 'hangs', _async => false)} ], '<', \undef, '>', \my $out, '2>', \my $said);
	$receiver->await('/hangs', $arrived + 1, brief => 1);
	my $pid = $node->safe_psql('postgres', q{
		SELECT pid FROM pg_stat_activity WHERE application_name = 'synchronous' ORDER BY backend_start DESC LIMIT 1});
	return ($pid, sub { $session->finish });
}

# --- how: each returns whether it was done

# It may have gone by itself meanwhile; the log knows, as soon as the postmaster, who has seen its end, takes the next connection.
my $kills = 0;
sub kill_one
{
	my ($pid) = @_;
	my $log = $node->log_position;
	$ledger->forget_crashes;
	kill 'KILL', $pid or return 0;
	$node->await(sub { !kill 0, $pid }, "the end of process $pid");
	$node->psql('postgres', 'SELECT 1');
	return 0 if $node->log_since($log) !~ /\(PID $pid\) was terminated by signal 9/;
	$kills++;
	return 1;
}

# It is asked to finish what it does, and does so soon.
sub terminate_one
{
	my ($pid) = @_;
	return $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 30000)") eq 't' ? 1 : 0;
}

my $in_time = 0;
sub terminate_patiently
{
	my ($pid) = @_;
	my $done;
	$in_time += $ledger->patiently(sub { $done = terminate_one($pid) });
	return $done;
}

# The second time, a while after, it does not finish that, nor wait for a lock.
sub terminate_twice
{
	my ($pid) = @_;
	my $done = $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 400) OR pg_terminate_backend($pid, 30000)");
	return $done eq 't' ? 1 : 0;
}

sub shut_down
{
	my ($mode) = @_;
	if ($mode eq 'smart')
	{
		# It waits for its sessions, which go on.
		my $stop = IPC::Run::start([ 'pg_ctl', '-D', $node->data_dir, '-m', 'smart', '-s', '-t', $PostgreSQL::Test::Utils::timeout_default, 'stop' ],
			'<', \undef, '>', \my $said, '2>&1');
		$ledger->random_moment(0.3);
		$in_time += $ledger->patiently(sub { $ledger->stop_load; $stop->finish or die "smart shutdown: $said" });
		$node->_update_pid(0);
	}
	else { $in_time += $ledger->patiently(sub { $node->stop($mode) }); }
	$node->start;
	return 1;
}

# (state, parent) of a process, nothing when it is gone.
sub stat_of { my ($pid) = @_; return ((eval { slurp_file("/proc/$pid/stat") } // '') =~ /^\d+ \(.*\) ([^ZX]) (\d+) /s); }
sub is_there { my ($pid) = @_; my @stat = stat_of($pid); return scalar @stat; }
sub children
{
	my ($parent) = @_;
	return grep { ((stat_of($_))[1] // 0) == $parent } map { m{^/proc/(\d+)$} } glob '/proc/[0-9]*';
}

# All others leave by themselves, also those that wait for a response: a worker, and a session.
sub kill_postmaster
{
	my $arrived = $receiver->count(path => '/hangs');
	$ledger->sql(q{SELECT whisperer.deliver_event('{}', 'hangs')});
	my (undef, $leave) = synchronous_session();
	$receiver->await('/hangs', $arrived + 2, brief => 1);
	my @children = children($node->{_pid});
	$ledger->forget_crashes;
	kill 'KILL', $node->{_pid};
	my $end = time() + $request_timeout / 2;
	usleep(10_000) while time() < $end && grep { is_there($_) } @children;
	my @left = grep { is_there($_) } @children;
	is("@left", '', 'without the postmaster all ' . @children . ' leave');
	$leave->();
	$node->start_killed;
	return 1;
}

# --- what is done: sessions_end of users; again, where what is in flight may be sent again; hangs, where deliveries do beside it

sub means { my ($name, $function, %more) = @_; return { name => $name, function => $function, %more }; }

# How to one of these. One that goes when it has nothing to do may just have gone.
sub to
{
	my ($how, $bring, @which) = @_;
	return sub {
		for (1 .. 5)
		{
			my ($pid, $leave) = $bring->(@which);
			my $done = $pid ? $how->($pid) : 0;
			$leave->() if $leave;
			return 1 if $done;
			$node->wait_back;
		}
		return 0;
	};
}

my @whom = (
	(map { [ "a $_", \&fleeting_process, $_ ] } sort keys %fleeting),
	[ 'the delivery worker', \&delivery_worker ],
	(map { [ "the $_ worker", \&standing_process, $_ ] } qw(callback countdown)),
	[ 'the launcher', \&standing_process, 'launcher' ],
	[ 'a session that waits for a response', \&synchronous_session ],
	[ 'a session at work', \&loading_session ]);
# Whichever is killed, PostgreSQL restarts all: half as often in "make test" but for the delivery worker. And it starts a launcher
# that has left again only after five seconds.
my %short = ((map { ("kill $_->[0]" => 10) } grep { $_->[0] ne 'the delivery worker' } @whom), 'terminate the launcher' => 5);
my @means = (
	(map {
		my ($name, @bring) = @$_;
		@bring = \&delivery_worker_without_suspects if $name eq 'the delivery worker';
		@bring = \&callback_worker_without_suspects if $name eq 'the callback worker';
		means("kill $name", to(\&kill_one, @bring), sessions_end => 1, again => 1);
	} @whom),
	(map {
		my ($name, @bring) = @$_;
		my $how = $fleeting{ $bring[1] // '' } ? \&terminate_twice : $name eq 'the delivery worker' ? \&terminate_patiently : \&terminate_one;
		means("terminate $name", to($how, @bring), sessions_end => $name =~ /at work/ || 0);
	} @whom),
	means('terminate the delivery worker twice', to(\&terminate_twice, \&delivery_worker), again => 1),
	means('kill the postmaster', \&kill_postmaster, sessions_end => 1, again => 1, hangs => 1),
	means('smart shutdown', sub { shut_down('smart') }),
	means('fast shutdown', sub { shut_down('fast') }, sessions_end => 1),
	means('immediate shutdown', sub { shut_down('immediate') }, sessions_end => 1, again => 1));

# So often under one load, which is begun again when sessions of it have gone; then it is judged.
my ($rows, $again) = (0, 0);
sub round_of
{
	my ($means, $times, $name) = @_;
	my $done = 0;
	my $start = time();
	for (1 .. $times)
	{
		$ledger->keep_up(prepared => 1, rate => 100, sessions_end => $means->{sessions_end});
		$ledger->random_moment(0.3);
		my $now = sub { $done += $means->{function}->(); $node->wait_back };
		$means->{again} ? $ledger->disrupt($now) : $now->();
		$ledger->stop_load if $means->{again} && $means->{sessions_end};
	}
	$ledger->finish;
	is($done, $times, "$name: done");
	my $judged = $ledger->judge($name, least => 2 * $times);
	is($ledger->sql(q{SELECT state, count(*) FROM whisperer.webhook_events WHERE event_type = 'hangs' GROUP BY state}),
		$means->{hangs} ? "delivered|$times" : '', "$name: a session that was ended while it sent has left nothing") if $name =~ /response|postmaster/;
	note sprintf '%s: %d rows in %.1f s; sent again: %d', $name, $judged, time() - $start, $ledger->{again};
	$rows += $judged;
	$again += $ledger->{again};
	$ledger->turn_page;
	return;
}

my $log = $node->log_position;
for my $means (shuffle @means)
{
	my @pages = Whisperer::Ledger::pages($short{ $means->{name} } // 20, 500);
	my $page = 0;
	round_of($means, $_, "$means->{name}, $_ times" . (@pages > 1 ? ', page ' . ++$page : '')) for @pages;
}
note "$rows rows, two deliveries each; sent again: $again";

# What ended, ended because of us.
my $said = $node->log_since($log);
my $signals = () = $said =~ /was terminated by signal/g;
cmp_ok($in_time, '>', 0, 'workers have left in time');
is($signals, $kills, 'no process was ended by a signal but those killed here');
unlike($said, qr/PANIC|exited with exit code (?![01]\b)/, 'no panic, no unusual exit');

$node->stop;
done_testing();
