# docs/reference.md describes the extension that is installed: every function with its arguments, every view
# with its columns, every setting with its default and range, every SQLSTATE of ours; and nothing that is not
# there.
use strict;
use warnings;
use utf8;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;

my $text = slurp_file('docs/reference.md');
my $node = Whisperer::Node->started('reference');
$node->defaults;
$node->restart;

sub rows { return map { [ split /\t/, $_, -1 ] } split /\n/, $node->safe_psql('postgres', "COPY ($_[0]) TO STDOUT"); }

# As people write what the catalogue has in full.
sub short
{
	my ($signature) = @_;
	$signature =~ s/::[a-z ]+(?:\[\])?(?=[,)])//g;
	$signature =~ s/timestamp with time zone/timestamptz/g;
	$signature =~ s/'84 days'/'12 weeks'/;
	$signature =~ s/'00:00:10'/'10 s'/;
	$signature =~ s/TABLE\(/TABLE (/;
	return $signature;
}

# ---- Functions
my $in_blocks = join ' ', $text =~ /^```postgresql\n(.*?)^```$/msg;
$in_blocks =~ s/\s+/ /g;
my %described_signatures;
while ($in_blocks =~ /(whisperer\.\w+\([^()]*\) RETURNS (?:TABLE \([^()]*\)|[\w\[\]]+))/g) { $described_signatures{$1} = 1; }
my ($not_for_you) = $text =~ /^### Functions not for you\n(.*?)^## /ms;

my (%there, %internal);
for (rows(q{SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid),
		coalesce(obj_description(oid, 'pg_proc'), '') FROM pg_proc WHERE pronamespace = 'whisperer'::regnamespace ORDER BY 1, 2}))
{
	my ($name, $arguments, $result, $comment) = @$_;
	if ($comment =~ /^Internal/) { $internal{$name} = 1; next; }
	my $signature = short("whisperer.$name($arguments) RETURNS $result");
	ok($described_signatures{$signature}, "described: $signature");
	$there{$signature} = 1;
}
is(join("\n", grep { !$there{$_} } sort keys %described_signatures), '', 'no function is described that is not there');
is(join(' ', $not_for_you =~ /`(\w+)`/g), join(' ', sort keys %internal), 'functions not for you, all of them');

# ---- Views
for (rows(q{SELECT relname, attname, CASE WHEN atttypid = 'timestamptz'::regtype THEN 'timestamptz'
			WHEN atttypid = 'timestamptz[]'::regtype THEN 'timestamptz[]' ELSE format_type(atttypid, atttypmod) END
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE relnamespace = 'whisperer'::regnamespace AND relkind = 'v' AND attnum > 0 AND relname NOT IN ('pending', 'failed')
			AND coalesce(obj_description(c.oid, 'pg_class'), '') NOT LIKE 'Internal%'
		ORDER BY relname, attnum}))
{
	my ($view, $column, $type) = @$_;
	my ($section) = $text =~ /^### \Q$view\E\n(.*?)^##/ms;
	ok(defined $section && $section =~ /^\| `\Q$column\E` \| \Q$type\E \|/m, "described: $view.$column $type");
}
like($text, qr/^### $_\n/m, "described: $_") for qw(pending failed);

# ---- Settings
for (rows(q{SELECT name, CASE WHEN boot_val = '' THEN '(empty)' WHEN vartype = 'integer' AND unit IS NOT NULL
				THEN current_setting(name) ELSE boot_val END,
			CASE WHEN min_val IS NOT NULL THEN min_val || ' to ' || max_val
				WHEN enumvals IS NOT NULL THEN array_to_string(enumvals, ', ') ELSE '' END, context
		FROM pg_settings WHERE name LIKE 'whisperer.%' ORDER BY 1}))
{
	my ($name, $default, $range, $context) = @$_;
	my $row = qr/^\| `\Q$name\E` \| \Q$default\E \| ${\($range eq '' ? '[^|]*' : quotemeta $range)} ?\| $context \|/m;
	like($text, $row, "described: $name, $default, $range, $context");
}

# ---- Errors
like($text, qr/^\| `WH00$_` \|/m, "described: WH00$_") for 1 .. 8;

# ---- Coming from dj-whisperer: all of its habits, in order
my ($rows) = slurp_file('docs/coming-from-dj-whisperer.md') =~ /^## Row by row\n(.*)/ms;
is(join(' ', $rows =~ /^\| (\d+) \| [^|]+ \| [^|]+ \|/mg), join(' ', 1 .. 42), 'parity rows 1 to 42 are documented');

$node->stop;
done_testing();
