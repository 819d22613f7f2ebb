# Scenarios are files in bench/scenarios. Each gives
#     large   => 1 if it is of a million rows and more, and left to "make bench-full"
#     figures => [ { name, label, unit (after the number), digits, target, aim, less => 1 if smaller is better } ... ],
#                as the table shows them; without target it is only reported
#     run     => code that calls Bench::record(run number, figure's name, value)
package Bench::Scenario;

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec ();

my $directory = File::Spec->rel2abs(dirname(__FILE__) . '/../../scenarios');

# The table's order is the issue's: names in the order in which they are run.
our @all = qw(throughput latency enqueue-single enqueue-bulk fan-out backlog held-snapshot history isolation retention retries
  tls workers idle cost);

sub load
{
	my $name = shift;
	my $file = "$directory/$name.pl";
	-e $file or die "there is no scenario \"$name\"; there are: @all\n";
	my $scenario = do $file;
	die $@ if $@;
	ref $scenario eq 'HASH' or die "$file gives no scenario: $!\n";
	return { name => $name, %$scenario };
}

# The names asked for, by commas; "all"; or without a name, all but the large ones.
sub chosen
{
	my $asked = shift // '';
	return @all if $asked eq 'all';
	return grep { !load($_)->{large} } @all if $asked eq '';
	my @names = split /[,\s]+/, $asked;
	load($_) for @names;
	return @names;
}

# Values by scenario and figure, in the order of the runs.
sub read_results
{
	my $path = shift;
	my %results;
	open(my $file, '<', $path) or die "$path: $!\n";
	while (<$file>)
	{
		chomp;
		my ($scenario, undef, $figure, $value) = split /\t/;
		push @{ $results{$scenario}{$figure} }, $value;
	}
	return \%results;
}

# A scenario that leaves a figure out has not measured.
sub check_complete
{
	my ($scenario, $path) = @_;
	my $of = read_results($path)->{ $scenario->{name} } // {};
	my @missing = grep { !$of->{$_} } map { $_->{name} } @{ $scenario->{figures} };
	die "$scenario->{name} has no figure for: @missing\n" if @missing;
	return;
}

1;
