# The server, or the delivery worker alone, is killed at each place of the commit that records results: before the WAL is written,
# in the middle of that, before and after the sync, and when the commit is durable and the worker still has its results in memory.
# Nothing is lost; what was recorded is not sent again, and what was not is.  WHISPERER_SEED repeats a run's moments.
use strict;
use warnings;

use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Fault;
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $fault = Whisperer::Fault->new;
my $node = Whisperer::Node->new('main');
$node->init(settings => "$Whisperer::Ledger::settings\n$Whisperer::Fault::settings");
$fault->preloaded(sub { $node->start });
$node->create_whisperer('postgres');
my $ledger = Whisperer::Ledger->new($node, $receiver);

# Whether the transaction survives: a record that was not written does not, and in the middle of it may go either way.
my %durable = (
	'before the write' => 0,
	'in the middle of the write' => undef,
	'after the write' => 1,
	'after the sync' => 1,
	'while its results leave' => 1);
my @cases = map { my $point = $_; map { [ $point, $_ ] } qw(server worker) } @Whisperer::Fault::commit_points;
my (%times, %again, %kept);
my $rows = 0;

sub crash
{
	my ($point, $whom) = @_;
	my $log = $node->log_position;
	$ledger->forget_crashes; # the launcher would wait longer each time
	$fault->arm($point, $whom, commits => int rand 4, locks => int rand 3);
	my ($strike) = $fault->await(1);
	# The sending thread goes on until its process ends.
	$ledger->disrupted($strike->{at}, time());
	if ($whom eq 'server')
	{
		$fault->preloaded(sub { $node->start_killed });
	}
	else
	{
		$node->wait_for_log(qr/whisperer delivery.* was terminated by signal 9/, $log);
		$node->wait_back;
	}
	return $strike;
}

# So often; what each strike left is looked at when all are over.
sub round_of
{
	my ($point, $whom, $times, $name) = @_;
	my @strikes;
	for (1 .. $times)
	{
		# It ends with the server's connections.
		$ledger->keep_up(rate => 500, prepared => 1, sessions_end => 1);
		$ledger->random_moment(0.2);
		push @strikes, crash($point, $whom);
		$ledger->stop_load;
	}
	$ledger->finish;
	$rows += $ledger->judge($name, least => 2 * $times);
	$again{$point} += $ledger->{again};
	my ($recorded, @late, @lost) = (0);
	for my $strike (@strikes)
	{
		my ($before, @sent) = $ledger->recorded_before($strike->{at});
		$recorded += $before;
		push @late, @sent;
		next unless $durable{$point};
		push @lost, $strike->{xid} if $node->safe_psql('postgres', "SELECT pg_xact_status('$strike->{xid}')") ne 'committed';
		$kept{$point} += $node->safe_psql('postgres', "SELECT count(*) FROM whisperer.history WHERE xmin = '$strike->{xid}'");
	}
	is("@late", '', "$name: none of the $recorded that were recorded was sent again");
	is("@lost", '', "$name: the commit is kept, each time") if $durable{$point};
	$times{"$whom $point"} += $times;
	$ledger->turn_page;
	return;
}

# Each place 20 times, or 500: half of them the server, half of them the worker.
for my $case (shuffle @cases)
{
	my ($point, $whom) = @$case;
	round_of($point, $whom, $_, "$whom killed $point, $_ times") for Whisperer::Ledger::pages(10, 250);
}

# A commit may have been one that saves what is known of receivers, or recorded only what is tried again: there must be one at each
# place that recorded results.
for my $point (grep { defined $durable{$_} } sort keys %durable)
{
	my $found = $durable{$point} ? \%kept : \%again;
	for my $more (1 .. 10)
	{
		last if $found->{$point};
		round_of($point, 'worker', 1, "once more ($more), worker killed $point");
	}
}
note "$rows rows, two deliveries each";
note join ', ', map { "$_: $times{$_}" } sort keys %times;
note join ', ', map { "sent again when killed $_: $again{$_}" } sort keys %again;
note join ', ', map { "kept when killed $_: $kept{$_}" } sort keys %kept;

# Those were commits that recorded something.
for my $point (sort keys %again)
{
	cmp_ok($kept{$point}, '>', 0, "killed $point, results are kept") if $durable{$point};
	cmp_ok($again{$point}, '>', 0, "killed $point, results are lost, and their deliveries sent again") if defined $durable{$point} && !$durable{$point};
}
unlike($node->log_since(0), qr/PANIC|exited with exit code (?![01]\b)/, 'no panic, no unusual exit');
$node->stop;
done_testing();
