# pgbench with a script of one line.
package Bench::Pgbench;

use strict;
use warnings;

use PostgreSQL::Test::Utils ();

use Bench qw(run_tool);

sub _command
{
	my ($database, $script, %options) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
	PostgreSQL::Test::Utils::append_to_file($file, "$script;\n");
	my @command = ('pgbench', '-n', '-M', 'prepared', '-f', $file, '-c', $options{clients}, '-T', $options{seconds});
	push @command, '-j', 2 if $options{clients} > 1;
	push @command, '-R', $options{rate} if $options{rate};
	return (@command, $database->connection);
}

# Transactions a second; dies when one of them failed.
sub run
{
	my @lines = run_tool(_command(@_));
	my ($tps) = map { /^tps = ([0-9.]+)/ ? $1 : () } @lines;
	my ($failed) = map { /^number of failed transactions: (\d+)/ ? $1 : () } @lines;
	die join "\n", 'pgbench failed:', @lines, '' if !$tps || $failed;
	return $tps;
}

# The same beside something else: returns what to read and close when that is done.
sub start
{
	my @command = _command(@_);
	open(my $pipe, '-|', @command) or die "pgbench: $!\n";
	return $pipe;
}

1;
