# The journal of what is in flight cannot be written: a full disk, on a file system that takes new blocks for what is written
# anew (btrfs, reflinked XFS); here a tmpfs, with holes punched into the file. Deliveries go on, the server does not notice,
# and the log says it once; when there is space, what is in flight is remembered again.
use strict;
use warnings;

use Test::More;

my $disk;
BEGIN { require Whisperer::SmallDisk; $disk = Whisperer::SmallDisk::mounted('1m') }

use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $at_once = 150; # more than fit into the file's first page, which stays: the journal's head is there
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
$node->init(settings => "whisperer.max_in_flight_per_subscription = $at_once\nwhisperer.max_in_flight = 300\nwhisperer.request_timeout = 600");
mkdir "$disk/own" or die "$disk: $!";
symlink "$disk/own", $node->data_dir . '/pg_whisperer' or die "pg_whisperer: $!";
$node->start;
$node->create_whisperer('postgres');
my ($worker) = $node->delivery_pids('postgres');
my ($journal) = glob "$disk/own/*.journal";
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('made');
	SELECT whisperer.subscribe('made', '@{[$receiver->url('/in')]}')});

my $remembered = 'SELECT count(*) FROM whisperer.in_flight_list()';
my $raised = 0;
sub deliver
{
	my ($count) = @_;
	$raised += $count;
	$node->safe_psql('postgres', "SELECT count(whisperer.deliver_event('{}'::jsonb, 'made')) FROM generate_series(1, $count)");
	return;
}

# What its blocks hold is lost; none of it is in flight.
sub fill
{
	# Or what has landed would be noted in new blocks.
	$node->poll_until('postgres', $remembered, '0');
	my $size = -s $journal;
	system('fallocate', '--punch-hole', '--offset', 4096, '--length', $size - 4096, $journal) == 0 or die 'fallocate';
	system("dd if=/dev/zero of='$disk/ballast' bs=1k status=none 2>'$disk.said'");
	return;
}
sub free { unlink "$disk/ballast" or die "ballast: $!"; return; }

# So many at once; all of them have arrived, and none is answered.
sub all_in_flight
{
	$receiver->answer('/in', { hang => 'request' });
	deliver($at_once);
	$receiver->await('/in', $raised, brief => 1);
	return;
}

sub all_answered
{
	$receiver->answer('/in', { status => 200 });
	$receiver->release;
	$node->wait_settled;
	return;
}

my $said = qr/LOG:  whisperer could not write file "pg_whisperer\/\d+\.0\.journal": No space left on device/;
my $log = $node->log_position;
sub times_said { my $times = () = $node->log_since($log) =~ /$said/g; return $times; }

# A subscription's window opens as its receiver proves itself.
deliver(2 * $at_once);
$node->wait_settled;

# --- no space
my $full = time();
fill();
all_in_flight();
$node->wait_for_log($said, $log);
pass('all are sent, and the log says that they are not remembered');
like($node->log_since($log), qr/DETAIL:  Deliveries are sent, but after a crash it is not known which were in flight\.\n.*HINT:  Free space/,
	'with what to do');
my $noted = $node->safe_psql('postgres', $remembered);
cmp_ok($noted, '<', $at_once, "$noted were remembered, as many as there was room for");
all_answered();
deliver($at_once);
$node->wait_settled;
# After five seconds without trouble it is news again.
my $times = times_said();
cmp_ok($times, '<=', 1 + int((time() - $full) / 5), 'it is said once');

# --- space
free();
all_in_flight();
is($node->safe_psql('postgres', $remembered), $at_once, 'with space, all in flight are remembered');
all_answered();
$node->poll_until('postgres', $remembered, '0');
pass('and none is when they have landed');

# --- it is said again when it has gone well for a while: five seconds, in which something is written
my ($free, $begun) = time();
do
{
	$begun = time();
	deliver(1);
	$node->wait_settled;
} while ($begun < $free + 6);
is(times_said(), $times, 'it is not said while all goes well');
my $second = $node->log_position;
$full = time();
fill();
all_in_flight();
$node->wait_for_log($said, $second);
all_answered();
free();
my $again = times_said() - $times;
cmp_ok($again, '<=', 1 + int((time() - $full) / 5), 'the next time it is said again, and once');
is($receiver->count(path => '/in'), $raised, 'all arrived, each once');
is(join(' ', $node->delivery_pids('postgres')), $worker, 'the worker is the same');

# --- what was written outlives the processes
all_in_flight();
kill 'KILL', $node->delivery_pids('postgres');
$node->await_end;
$receiver->answer('/in', { status => 200 });
$receiver->release;
$node->wait_back;
$node->wait_for_log(qr/whisperer found $at_once deliveries of database "postgres" that were in flight at a crash/, $log);
$node->wait_settled;
pass('after a crash all that were in flight are known');

$node->stop;
done_testing();
