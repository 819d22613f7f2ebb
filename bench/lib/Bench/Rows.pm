# Many rows like one that the product itself has written, put into its tables directly: millions by way of the product would
# take hours. Columns not named are copied, so that this knows nothing of the tables but what it changes.
package Bench::Rows;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(multiply uuid_at);

# A UUIDv7 of that time, different for each row number n.
sub uuid_at
{
	my $time = shift;
	return "(lpad(to_hex((extract(epoch FROM $time) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0')"
	  . " || '8' || lpad(to_hex(n), 15, '0'))::uuid";
}

# multiply($database, 'history', 1_000_000, column => 'expression of n', ...): the only row of the table is the pattern, and
# goes; a second call takes the same again. n is 1 … count.
sub multiply
{
	my ($database, $table, $count, %changed) = @_;
	my $relation = "whisperer.$table";
	if ($database->sql("SELECT to_regclass('pg_temp.pattern_$table') IS NULL") eq 't')
	{
		my $rows = $database->sql("SELECT count(*) FROM $relation");
		die "$relation has $rows rows, not the one to make others of\n" if $rows != 1;
		$database->sql("CREATE TEMPORARY TABLE pattern_$table AS TABLE $relation; DELETE FROM $relation");
	}
	my @columns = split /\n/, $database->sql(qq{SELECT attname FROM pg_attribute WHERE attrelid = '$relation'::regclass
		AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum});
	my %known = map { $_ => 1 } @columns;
	my @unknown = grep { !$known{$_} } sort keys %changed;
	die "$relation has no column @unknown: Bench::Rows and the scenario are to be changed as the table was\n" if @unknown;

	my $names = join ', ', @columns;
	my $values = join ', ', map { $changed{$_} // "p.$_" } @columns;
	my $slice = 250_000;
	for (my $first = 1; $first <= $count; $first += $slice)
	{
		my $last = $first + $slice - 1;
		$last = $count if $last > $count;
		$database->sql("INSERT INTO $relation ($names) SELECT $values FROM generate_series($first, $last) AS g (n), pattern_$table p");
	}
	$database->sql("VACUUM (ANALYZE) $relation; CHECKPOINT");
	return;
}

1;
