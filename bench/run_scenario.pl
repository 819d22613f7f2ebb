#!/usr/bin/perl
# Runs one scenario, bench/scenarios/NAME.pl, and appends its figures to $BENCH_RESULTS. Dies when anything is not as it has to be.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../test/lib";

use Bench;
# Here and not in the scenarios: these load PostgreSQL's test modules, which redirect output when the program starts, while
# scenarios are also read for their figures alone.
use Bench::Nginx;
use Bench::Pgbench;
use Bench::PlainLoop;
use Bench::Scenario;
use Bench::Server;

my $name = shift // die "usage: run_scenario.pl NAME\n";
$Bench::scenario = $name;
my $scenario = Bench::Scenario::load($name);
$scenario->{run}->();
Bench::Scenario::check_complete($scenario, $ENV{BENCH_RESULTS});
