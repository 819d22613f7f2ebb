# What all scenarios share: where results go, statistics of a few numbers, other programs.
package Bench;

use strict;
use warnings;

use Carp qw(croak);
use Exporter qw(import);
use IO::Handle;
use Time::HiRes ();

our @EXPORT_OK = qw(size runs record say_progress median percentile tool run_tool wait_for now);

# PostgreSQL's test modules, loaded later, turn both into a log file.
our ($report, $trouble);
BEGIN
{
	open($report, '>&', \*STDOUT) or die $!;
	open($trouble, '>&', \*STDERR) or die $!;
	$report->autoflush(1);
	$trouble->autoflush(1);
}
$SIG{__DIE__} = sub { print $trouble @_ unless $^S; };

our $scenario = 'none';

# A size of a scenario: an environment variable's value, or the default.
sub size
{
	my ($name, $default) = @_;
	my $value = $ENV{$name} // '';
	return $default if $value eq '';
	$value =~ /^[0-9]+$/ && $value > 0 or croak "$name is to be a positive number, not \"$value\"";
	return $value;
}

sub runs { return size('RUNS', 5); }

# One line of the results: a figure of this scenario in one run.
sub record
{
	my ($run, $figure, $value) = @_;
	defined $value && $value =~ /^-?[0-9.]+(e[-+]?[0-9]+)?$/i or croak "$figure is no number: " . ($value // 'undefined');
	open(my $file, '>>', $ENV{BENCH_RESULTS}) or die "$ENV{BENCH_RESULTS}: $!\n";
	print $file join("\t", $scenario, $run, $figure, $value), "\n";
	close $file or die "$ENV{BENCH_RESULTS}: $!\n";
	say_progress(sprintf 'run %d: %s %.4g', $run, $figure, $value);
	return;
}

sub say_progress { print $report "$scenario: @_\n"; return; }

# The one in the middle; of an even number the mean of the two there.
sub median
{
	my @sorted = sort { $a <=> $b } @_ or croak 'median of nothing';
	return ($sorted[ ($#sorted) / 2 ] + $sorted[ @sorted / 2 ]) / 2;
}

sub percentile
{
	my ($share, @values) = @_;
	my @sorted = sort { $a <=> $b } @values or croak 'percentile of nothing';
	return $sorted[ int($share / 100 * $#sorted + 0.5) ];
}

sub now { return Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()); }

# One of the programs that scripts/bench has built.
sub tool { my $name = shift; return "$ENV{BENCH_TOOLS}/$name"; }

# A program's lines; dies unless it succeeds.
sub run_tool
{
	my @command = @_;
	open(my $pipe, '-|', @command) or die "$command[0]: $!\n";
	chomp(my @lines = <$pipe>);
	close $pipe or die "failed: @command\n";
	return wantarray ? @lines : $lines[0];
}

# Polls until the condition holds; dies when it does not in time.
sub wait_for
{
	my ($what, $seconds, $condition, $pause) = @_;
	my $end = now() + $seconds;
	until ($condition->())
	{
		die "waited $seconds s for $what\n" if now() > $end;
		Time::HiRes::sleep($pause // 0.01);
	}
	return;
}

1;
