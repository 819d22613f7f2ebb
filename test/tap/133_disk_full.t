# A disk that is full, first the tables' and then the WAL's, and space again: nothing is lost, and while only the tables' is
# full nothing is even sent again; and that of the files in pg_whisperer.  The disk is a small tmpfs in a mount namespace of the
# test's own.
use strict;
use warnings;

use Test::More;

my $disk;
BEGIN { require Whisperer::SmallDisk; $disk = Whisperer::SmallDisk::mounted('160m') }

use File::Spec;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

mkdir "$disk/tables" or die "$disk: $!";
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
$node->init(
	extra => [ '--waldir', "$disk/wal", '--wal-segsize', 1 ],
	settings => "$Whisperer::Ledger::settings\nmin_wal_size = 5MB\nmax_wal_size = 20MB\nautovacuum = off");
$node->start;
$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$disk/tables'");
$node->safe_psql('postgres', 'CREATE DATABASE shop TABLESPACE small');
$node->create_whisperer('shop');
my $ledger = Whisperer::Ledger->new($node, $receiver, database => 'shop');

# Takes what is left of the disk but so many kilobytes.
sub fill
{
	my ($leave) = @_;
	my ($left) = (split ' ', (split /\n/, qx(df -k --output=avail "$disk"))[1])[0];
	# It fails in the end when somebody else takes space, too. In large pieces: a load that goes on meanwhile has little time.
	my $bytes = 1024 * ($left - $leave);
	system("dd if=/dev/zero of='$disk/ballast' bs=1M count=$bytes iflag=count_bytes status=none 2>'$disk.said'");
	note "$left kB were left, and " . (-s "$disk/ballast") / 1024 . ' are taken';
	return;
}
sub free { unlink "$disk/ballast" or die "ballast: $!"; return; }

# Whether the log says this since then, or does soon.
sub said_since
{
	my ($log, $what) = @_;
	my $end = time() + 60;
	usleep(20_000) until $node->log_since($log) =~ $what || time() > $end;
	return $node->log_since($log) =~ $what;
}

# As PostgreSQL says it: the second when there was room for a part of a page.
my $no_space = qr/No space left on device|wrote only \d+ of \d+ bytes/;

# Who panics has said so before it ends, and the server takes connections until it sees that end.
sub await_crash
{
	my ($log) = @_;
	$node->wait_for_log(qr/was terminated by signal 6/, $log) if $node->log_since($log) =~ /PANIC: /;
	return;
}

# --- the tables' disk: attempts are made, and their results cannot be written
$receiver->answer('/plain', { status => 200, body => 'x' x 2000, delay => { headers => 300 } });
my $position = $node->log_position;
my $pending = 500;
# Nothing is recorded before the disk is full: no callback has anything to do, and each failure is the worker's.
$node->safe_psql('postgres', $_) for 'ALTER SYSTEM SET whisperer.enabled = off', 'SELECT pg_reload_conf()';
$node->poll_until('shop', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'disabled');
$ledger->sql("INSERT INTO ledger (note) SELECT 'before' FROM generate_series(1, $pending)");
fill(0);
$node->safe_psql('postgres', $_) for 'ALTER SYSTEM RESET whisperer.enabled', 'SELECT pg_reload_conf()';
$node->wait_for_log(qr/whisperer could not work on its tables in database "shop": could not extend file .*$no_space/, $position);
pass('the log says what is wrong');
my $hint = qr/HINT:  Nothing is lost; it is tried again, at intervals of up to 30 seconds\. Check free disk space/;
like($node->log_since($position), $hint, 'and that nothing is lost');
is($node->safe_psql('shop', 'SELECT 1'), '1', 'the server goes on');
# However often it tries: reading, which succeeds, is not taken for the end of it.
my $failures = q{SELECT xact_rollback FROM pg_stat_database WHERE datname = 'shop'};
my $before = $node->safe_psql('postgres', $failures);
my $began = time();
$node->poll_until('postgres', "SELECT ($failures) >= $before + 5");
# The first of them may have happened before and been counted later; then a quarter of a second, half a one, one.
cmp_ok(time() - $began, '>', 1.5, 'it tries again later each time');
isnt($ledger->{node}->psql('shop', "INSERT INTO ledger (note) SELECT repeat('x', 1000) FROM generate_series(1, 1000)"), 0,
	'users cannot write either');
free();
$ledger->judge('space for the tables again', callbacks_may_fail => 1);
my $said = () = $node->log_since($position) =~ /whisperer could not work on its tables/g;
# News once more after each time that something could be written.
cmp_ok($said, '<=', 5, 'it was not said again and again');
$ledger->turn_page;

# --- the same under load, at random moments: each time somebody finds the disk full, at times the worker that records
my ($full, $unrecorded, $panics) = (0, 0, 0);
my $rounds = Whisperer::Ledger::repetitions(20, 500);
for my $round (1 .. $rounds)
{
	# It goes on until somebody has run into the end of the disk, however slow the machine.
	$ledger->start(rate => 100, sessions_end => 1, errors => $no_space);
	$ledger->begun;
	$ledger->random_moment(0.3);
	my ($log, $from) = ($node->log_position, time());
	fill($round % 4 == 1 ? 0 : int rand 100);
	$full++ if said_since($log, $no_space);
	$ledger->random_moment(0.5);
	free();
	$ledger->random_moment(0.2);
	$ledger->stop_load;
	await_crash($log);
	$node->wait_back;
	$unrecorded++ if $node->log_since($log) =~ /whisperer could not work on its tables in database "shop": .*$no_space/;
	# There may have been no space for the WAL, too: then the server restarts itself, or gives up. Otherwise nothing is sent twice.
	if ($node->log_since($log) =~ /PANIC: .*$no_space/) { $panics++; $ledger->disrupted($from, time()); }
	$ledger->finish;
	$ledger->judge("round $round, full for a while", callbacks_may_fail => 1);
	$ledger->turn_page;
}
note "in $unrecorded of $rounds rounds the worker found no space, in $panics the WAL";
is($full, $rounds, 'somebody found the disk full each time');
cmp_ok($unrecorded, '>', 0, 'and the worker that records did');

# --- the disk of the files in pg_whisperer alone: no journal can be made, and the launcher remembers nothing
$node->create_whisperer('postgres'); # which lies elsewhere, like the rest of the data directory
$node->safe_psql('postgres', q{SELECT whisperer.register_event_type('t')});
$node->safe_psql('postgres', "SELECT whisperer.subscribe('t', '@{[$receiver->url('/in-postgres')]}')");
$node->stop;
rename($node->data_dir . '/pg_whisperer', $node->data_dir . '/elsewhere') or die "pg_whisperer: $!";
mkdir "$disk/files" or die "$disk/files: $!";
symlink(File::Spec->rel2abs("$disk/files"), $node->data_dir . '/pg_whisperer') or die "pg_whisperer: $!";
$position = $node->log_position;
# The start frees nothing of it: a file of caches lies there, too, which it would remove.
unlink glob "$disk/tables/*/*/pg_internal.init";
fill(0);
$node->start;
$node->wait_for_log(qr{could not allocate \d+ bytes for file "pg_whisperer/\d+\.0\.journal": No space left}, $position);
$node->wait_for_log(qr{whisperer could not write file "pg_whisperer/launcher": No space left}, $position);
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{}'::jsonb, 't')});
free();
$receiver->await('/in-postgres', 1);
$node->wait_settled('postgres');
pass('a journal that could not be made is made when there is space: what was raised meanwhile arrives');
is(() = $node->log_since($position) =~ m{could not write file "pg_whisperer/launcher"}g, 1, 'the launcher says once what it cannot remember');
unlike($node->log_since($position), qr/PANIC|terminated by signal/, 'and nothing has crashed');
$node->stop;
unlink $node->data_dir . '/pg_whisperer' or die "pg_whisperer: $!";
rename($node->data_dir . '/elsewhere', $node->data_dir . '/pg_whisperer') or die "elsewhere: $!";
$node->start;
$node->safe_psql('postgres', 'DROP EXTENSION whisperer');

# --- the WAL's disk: PostgreSQL panics, and comes back when there is space
# It ends with its connections.
$ledger->start(rate => 300, sessions_end => 1, errors => $no_space);
$ledger->begun;
my $end = time() + 60;
my $log = $node->log_position;
$ledger->disrupt(sub {
	# Checkpoints give back no segment: at the pace of a slow machine there would always be one.
	$node->safe_psql('postgres', $_) for q{ALTER SYSTEM SET wal_keep_size = '1GB'}, 'SELECT pg_reload_conf()';
	fill(0);
	my $panic = qr/PANIC: .*$no_space/;
	# It has written something, or nothing would be switched.
	$node->psql('postgres', 'SELECT pg_current_xact_id(), pg_switch_wal()') until $node->log_since($log) =~ $panic || time() > $end;
	like($node->log_since($log), $panic, 'PostgreSQL has panicked');
	free();
	$ledger->end_load;
	await_crash($log);
	$node->wait_back;
});
$ledger->finish;
$ledger->judge('space for the WAL again', callbacks_may_fail => 1);

$node->stop;
done_testing();
