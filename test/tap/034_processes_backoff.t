# A worker that crashes the server again and again is started later each time, although the crash
# empties shared memory.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;

my $node = Whisperer::Node->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->start;
$node->create_whisperer('postgres');
my $oid = $node->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'postgres'});

sub failures
{
	my $file = $node->data_dir . '/pg_whisperer/launcher';
	return -e $file && slurp_file($file) =~ /^$oid (\d+) \d+ \d+$/m ? $1 : 0;
}

# Whether the launcher has noted that the worker runs, as it does when it has started it: whom it does not know to have run did not
# crash, either.
sub noted
{
	my $file = $node->data_dir . '/pg_whisperer/launcher';
	return -e $file && slurp_file($file) =~ /^$oid \d+ 1 \d+$/m;
}

# While the server restarts itself, it takes no connections.
sub wait_until
{
	my ($condition, $what) = @_;
	return ok($node->await($condition, $what), $what);
}

sub worker
{
	my (undef, $pid) = $node->psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'whisperer delivery' AND datname = 'postgres'});
	return $pid;
}

my $log = $node->log_position;
my ($pid) = $node->delivery_pids('postgres');
my $start = time();
foreach my $crash (1 .. 3)
{
	wait_until(\&noted, "crash $crash: the worker is known to run");
	kill 'KILL', $pid;
	my $killed = $pid;
	wait_until(sub { my $now = worker(); ($pid = $now) && $now ne $killed }, "crash $crash: a worker again");
	wait_until(sub { failures() == $crash }, "crash $crash: remembered");
}
cmp_ok(time() - $start, '>=', 1 + 2 + 4, 'each start waits longer: 1, 2 and 4 seconds');

# A clean restart does not count as a crash.
$node->restart;
($pid) = $node->delivery_pids('postgres');
is(failures(), 3, 'a clean restart is no failure');

# Somebody changes something: perhaps the reason is gone.
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET whisperer.max_attempts = 5');
wait_until(sub { failures() == 0 }, 'a change that is announced begins anew');
# Not the one that leaves for it: that one may be gone when it is to be killed.
wait_until(sub { my $now = worker(); $now && $now ne $pid }, 'with another worker');

# Also while the launcher waits, for minutes in the end.
foreach my $crash (1 .. 3)
{
	($pid) = $node->delivery_pids('postgres');
	wait_until(\&noted, "crash $crash while the launcher waits: the worker is known to run");
	my $position = $node->log_position;
	kill 'KILL', $pid;
	$node->wait_for_log(qr/database system is ready to accept connections/, $position);
}
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.workers WHERE kind = 'launcher' AND state LIKE 'serving %'}, '1');
wait_until(sub { failures() > 0 }, 'the crashes are remembered');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET whisperer.max_attempts = 6');
wait_until(sub { failures() == 0 }, 'and so it does while it is waited for');
$node->delivery_pids('postgres');

# What is written there cannot be: a crash leaves no trace, and perhaps it was the worker again. It starts a minute later;
# what somebody asks for meanwhile does not wait.
my $unwritable = $node->data_dir . '/pg_whisperer/launcher.new';
wait_until(\&noted, 'nothing is left to write');
unlink $node->data_dir . '/pg_whisperer/launcher';
mkdir $unwritable or die "$unwritable: $!";
($pid) = $node->delivery_pids('postgres');
$log = $node->log_position;
kill 'KILL', $pid;
my $with = qr/could not write file "pg_whisperer\/launcher".*\n.*DETAIL:  .* started a minute after it\.\n.*HINT:  Free space/;
$node->wait_for_log($with, $log);
$node->wait_back;
wait_until(sub { ($node->psql('postgres', 'CREATE DATABASE other'))[0] == 0 }, 'the server is back');
$node->create_whisperer('other');
$node->delivery_pids('other');
is(worker(), '', 'a worker that may have crashed the server waits, and another database does not wait for it');
my @said = $node->log_since($log) =~ /could not write file/g;
is(scalar @said, 1, 'it is said once');
rmdir $unwritable or die "$unwritable: $!";
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET whisperer.max_attempts');
$node->delivery_pids('postgres');
wait_until(sub { -f $node->data_dir . '/pg_whisperer/launcher' }, 'it begins anew when a change is announced, and is remembered again');

# Failures before a minute of health are over, and do not delay what is started again in good order.
my $launched = slurp_file($node->data_dir . '/pg_whisperer/launcher');
$node->stop;
my $remembered = $node->data_dir . '/pg_whisperer/launcher';
my ($head) = $launched =~ /^(.*)$/m;
open(my $file, '>', $remembered) or die "$remembered: $!";
print $file "$head\n$oid 9 0 0\n";
close $file or die "$remembered: $!";
$node->start;
($pid) = $node->delivery_pids('postgres');
$node->poll_until('postgres', "SELECT clock_timestamp() - backend_start > '61 s' FROM pg_stat_activity WHERE pid = $pid");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
$start = time();
wait_until(sub { my $now = worker(); $now && $now ne $pid }, 'another worker');
cmp_ok(time() - $start, '<', 30, 'at once, and not after five minutes');
wait_until(sub { failures() == 0 }, 'and they are forgotten');
$node->stop;
done_testing();
