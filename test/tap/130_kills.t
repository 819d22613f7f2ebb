# Processes killed, backends ended and servers shut down at random moments under load: nothing is lost,
# nothing is sent again but what was in flight, and no other process ends than the one we ended (after a
# SIGKILL PostgreSQL itself restarts all).  WHISPERER_SEED repeats a run's moments.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => $Whisperer::Ledger::settings);
my $ledger = Whisperer::Ledger->new($node, $receiver);
$node->safe_psql('postgres', 'CREATE DATABASE other');

# Two kinds come and go within milliseconds: what makes one come, and a lock that it waits for in its database.
my $changes = 100;
my %fleeting = (
	'whisperer probe' => {
		database => 'other',
		lock => 'LOCK TABLE pg_extension',
		come => sub { 'ALTER DATABASE other SET whisperer.max_attempts = ' . ++$changes },
	},
	'whisperer maintenance' => {
		database => 'postgres',
		lock => 'LOCK TABLE whisperer.function_failure IN SHARE MODE',
		come => sub { "ALTER SYSTEM SET whisperer.retention = '@{[++$changes]} weeks'", 'SELECT pg_reload_conf()' },
	});

# Calls the function with the process id of one such process, if there is one.
sub with_process
{
	my ($type, $function, $last) = @_;
	my $holder;
	if (my $fleeting = $fleeting{$type})
	{
		$holder = $node->background_psql($fleeting->{database}, on_error_die => 0);
		$holder->query_safe($_) for 'BEGIN', $fleeting->{lock};
		$node->safe_psql('postgres', $_) for $fleeting->{come}->();
	}
	# Those of the load come and go, and on a slow machine have gone before they are hit; this one stays.
	$holder = $node->background_psql('postgres', on_error_die => 0) if $type eq 'client backend' && $last;
	my $pid = $holder && $type eq 'client backend' ? $holder->query_safe('SELECT pg_backend_pid()')
	  : $node->safe_psql('postgres', "SELECT process_seen('$type', '10 s')");
	my $done = $pid ? $function->($pid) : 0;
	eval { $holder->quit } if $holder; # it may be the one that was ended
	return $done;
}

# It may have gone by itself meanwhile; the log knows.
sub kill_one
{
	my ($pid) = @_;
	my $log = $node->log_position;
	$ledger->forget_crashes;
	kill 'KILL', $pid or return 0;
	my $killed = qr/\(PID $pid\) was terminated by signal 9/;
	my $end = time() + 5;
	usleep(10_000) until $node->log_since($log) =~ $killed || time() > $end;
	return $node->log_since($log) =~ $killed ? 1 : 0;
}

# The first time it is asked to finish what it does, the second time it does not finish that.
sub terminate_one
{
	my ($pid) = @_;
	my $done = $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 500) OR pg_terminate_backend($pid, 5000)");
	return $done eq 't' ? 1 : 0;
}

sub shut_down
{
	my ($mode) = @_;
	$node->stop($mode);
	$node->start;
	return 1;
}

my @types = ((map { "whisperer $_" } qw(launcher probe delivery maintenance callback countdown)), 'client backend');
my @means = (
	(map { my $type = $_; [ 'kill', sub { with_process($type, \&kill_one, $_[1]) }, $type ],
		[ 'terminate', sub { with_process($type, \&terminate_one, $_[1]) }, $type ] } @types),
	(map { [ 'shutdown', \&shut_down, $_ ] } qw(smart fast immediate)));

my %done;
my (@queue, $rows, $again);
my $kills = 0;
my $log = $node->log_position;
for my $round (1 .. Whisperer::Ledger::repetitions(20, 500))
{
	# All of them, in another order each time.
	@queue = sort { $a->[3] <=> $b->[3] } map { [ @$_, rand() ] } @means unless @queue;
	my ($how, $function, $whom) = @{ shift @queue };
	my $name = "round $round, $how $whom";
	$ledger->start(seconds => 1, prepared => 1);
	$ledger->random_moment(0.8);
	my $hit = 0;
	$ledger->disrupt(sub {
		# One that goes when it has nothing to do may just have gone.
		for my $try (1 .. 5)
		{
			last if $hit = $function->($whom, $try == 5);
		}
		$node->wait_back;
	});
	ok($hit, "$name: done");
	$done{"$how $whom"} += $hit;
	$kills += $hit if $how eq 'kill';
	$ledger->finish;
	$rows += $ledger->judge($name);
	$again += $ledger->{again};
	$ledger->turn_page;
}
note "$rows rows, two deliveries each; sent again: $again";
note join ', ', map { "$_: $done{$_}" } sort keys %done;

# What ended, ended because of us.
my $said = $node->log_since($log);
my $signals = () = $said =~ /was terminated by signal/g;
is($signals, $kills, 'no process was ended by a signal but those killed here');
unlike($said, qr/PANIC|exited with exit code (?![01]\b)/, 'no panic, no unusual exit');
is($node->safe_psql('postgres', 'SELECT count(*) FROM whisperer.failed'), 0, 'nothing was given up');

$node->stop;
done_testing();
