# Under steady load neither the open files nor the private memory of any whisperer process grows: half a minute in `make test`,
# an hour in `make test-long` (WHISPERER_SOAK_SECONDS for another time).
use strict;
use warnings;

use List::Util qw(max min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Processes qw(private_memory open_files);
use Whisperer::Receiver;

my $seconds = $ENV{WHISPERER_SOAK_SECONDS} // ($ENV{WHISPERER_LONG} ? 3600 : 26);
my $page = max(4, min(30, $seconds / 8));
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "$Whisperer::Ledger::settings\nwhisperer.safety_scan_interval = '1s'");
my $ledger = Whisperer::Ledger->new($node, $receiver);

# By kind: what was seen in each page, [files, memory]. Processes that come and go are counted by their kind.
my %pages;
sub look
{
	my ($page) = @_;
	for my $line (split /\n/, $node->safe_psql('postgres', q{SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'whisperer %'}))
	{
		my ($pid, $kind) = split /\|/, $line;
		my ($files, $memory) = (open_files($pid), private_memory($pid));
		next unless defined $files && defined $memory;
		my $seen = $pages{$kind}[$page] //= [ 0, 0 ];
		$seen->[0] = max($seen->[0], $files);
		$seen->[1] = max($seen->[1], $memory);
	}
	return;
}

my $start = time();
my $rows = 0;
my $number = 0;
while (time() < $start + $seconds)
{
	my $end = time() + $page;
	$ledger->start(seconds => int $page, rate => 200, prepared => 1);
	while (time() < $end)
	{
		look($number);
		usleep(200_000);
	}
	$ledger->finish;
	$rows += $ledger->judge("page $number");
	is($ledger->{again}, 0, "page $number: nothing twice");
	$ledger->turn_page;
	$node->safe_psql('postgres', 'VACUUM');
	$number++;
}
note sprintf '%d rows in %.0f s', $rows, time() - $start;

# The first quarter is warming up; then the second half has no more than the rest.
for my $kind (map { "whisperer $_" } qw(launcher delivery callback countdown))
{
	my @seen = @{ $pages{$kind} // [] };
	is(scalar(grep { defined } @seen), $number, "$kind was there all the time");
	my @early = grep { defined } @seen[ $number / 4 .. $number / 2 ];
	my @late = grep { defined } @seen[ $number / 2 + 1 .. $number - 1 ];
	# Connections are kept: how many there are at a time is a matter of luck, within the requests in flight.
	for my $what ([ 0, 'open files', 64 ], [ 1, 'private memory (MB)', 1 ])
	{
		my ($column, $name, $slack) = @$what;
		my ($early, $late) = map { max(map { $_->[$column] } @$_) } \@early, \@late;
		note sprintf '%s: %s: %s, later %s', $kind, $name, $early, $late;
		cmp_ok($late, '<=', $early + $slack, "$kind: $name do not grow");
	}
}
unlike($node->log_since(0), qr/PANIC|was terminated by signal|exited with exit code (?![01]\b)/, 'no process came to harm');
$node->stop;
done_testing();
