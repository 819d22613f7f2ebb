#!/usr/bin/perl
# The table of all figures in a results file; with --markdown as docs/performance.md has it. Exit status 1 when a scenario that
# was to be run has no results.
#     table.pl [--markdown] RESULTS SCENARIO...
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Bench qw(median);
use Bench::Scenario;

my $markdown = @ARGV && $ARGV[0] eq '--markdown' && shift @ARGV;
my ($path, @names) = @ARGV;
my $results = Bench::Scenario::read_results($path);
my @rows = ([qw(scenario measure median spread runs target aim verdict)]);
my @failed;

sub number { my ($figure, $value) = @_; return sprintf '%.*f', $figure->{digits} // 2, $value; }

sub limit
{
	my ($figure, $kind) = @_;
	return '' unless defined $figure->{$kind};
	return ($figure->{less} ? '≤ ' : '≥ ') . $figure->{$kind};
}

sub verdict
{
	my ($figure, $median) = @_;
	return 'reported' unless defined $figure->{target};
	my $reaches = sub { my $limit = shift; return $figure->{less} ? $median <= $limit : $median >= $limit; };
	return $reaches->($figure->{aim}) ? 'aim' : $reaches->($figure->{target}) ? 'reached' : 'SHORT';
}

for my $name (@names)
{
	my $scenario = Bench::Scenario::load($name);
	for my $figure (@{ $scenario->{figures} })
	{
		my $values = $results->{$name}{ $figure->{name} };
		if (!$values)
		{
			push @failed, $name unless grep { $_ eq $name } @failed;
			push @rows, [ $name, $figure->{label}, '', '', 0, limit($figure, 'target'), limit($figure, 'aim'), 'FAILED' ];
			next;
		}
		my @sorted = sort { $a <=> $b } @$values;
		my $unit = $figure->{unit} ? " $figure->{unit}" : '';
		push @rows, [ $name, $figure->{label}, number($figure, median(@sorted)) . $unit,
			number($figure, $sorted[0]) . ' … ' . number($figure, $sorted[-1]), scalar @sorted,
			limit($figure, 'target'), limit($figure, 'aim'), verdict($figure, median(@sorted)) ];
	}
}

binmode STDOUT, ':encoding(UTF-8)';
for my $row (@rows) { utf8::decode($_) for @$row; }
my @width = (0) x @{ $rows[0] };
for my $row (@rows)
{
	for my $i (0 .. $#$row) { $width[$i] = length $row->[$i] if length $row->[$i] > $width[$i]; }
}
splice @rows, 1, 0, [ map { '-' x $_ } @width ] if $markdown;
for my $row (@rows)
{
	my @cells = map { sprintf "%-$width[$_]s", $row->[$_] } 0 .. $#$row;
	my $line = $markdown ? '| ' . join(' | ', @cells) . ' |' : join '  ', @cells;
	$line =~ s/ +$//;
	print "$line\n";
}
if (@failed) { print "failed: @failed\n"; exit 1; }
