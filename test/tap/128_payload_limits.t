# whisperer.max_payload_size to the byte, as sent: in deliver_event, row and statement triggers, for what serializers and customizers
# return, with trigger_errors = record, and in a LATIN1 database, whose text grows on its way.
use strict;
use warnings;

use JSON::XS ();
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $limit = 1024;
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "whisperer.max_payload_size = '${limit}B'");
my %databases = (utf8 => [ 'UTF8', 2 ], latin1 => [ 'LATIN1', 2 ], euc_jp => [ 'EUC_JP', 3 ]);    # bytes of the character below in UTF-8
my %character = (utf8 => 'chr(228)', latin1 => 'chr(228)', euc_jp => q{convert_from('\xe38182', 'UTF8')});
my $code = sub {
	my ($database, $sql) = @_;
	my ($status, $out, $error) = $node->psql($database, "\\set VERBOSITY verbose\n$sql", on_error_stop => 1);
	return ($error =~ /ERROR:  (\w{5}):/ ? $1 : '00000', $error);
};
# The payload that arrived for each: its bytes. (Whole bodies where a customizer made them.)
my $arrived = sub {
	my ($path, $count, $whole) = @_;
	return map { my $body = $_->{body}; length($whole ? $body : $body =~ s/^\{"event": \{"type": "\w+", "uuid": "\w{32}"\}, "payload": (.*)\}$/$1/sr) } $receiver->await($path, $count);
};

for my $database (sort keys %databases)
{
	my ($encoding, $width) = @{ $databases{$database} };
	$node->safe_psql('postgres', "CREATE DATABASE $database ENCODING '$encoding' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
	$node->create_whisperer($database);
	$node->safe_psql($database, qq{
		CREATE TABLE by_row (x text); CREATE TABLE by_statement (x text); CREATE TABLE serialized (x integer); CREATE TABLE customized (x integer);
		CREATE FUNCTION public.filled(bytes integer, wide integer) RETURNS text LANGUAGE sql AS \$\$SELECT repeat($character{$database}, wide) || repeat('x', bytes - $width * wide)\$\$;
		CREATE FUNCTION public.serializer(jsonb) RETURNS jsonb LANGUAGE sql AS \$\$SELECT jsonb_build_object('x', public.filled((\$1->>'x')::integer - 9, 100))\$\$;
		CREATE FUNCTION public.customizer(jsonb) RETURNS jsonb LANGUAGE sql AS \$\$SELECT jsonb_build_object('x', public.filled((\$1->'payload'->>'x')::integer - 9, 100))\$\$;
		SELECT whisperer.register_event_type('called'), whisperer.register_event_type('by_row'), whisperer.register_event_type('by_statement'),
			whisperer.register_event_type('serialized', serializer => 'public.serializer'), whisperer.register_event_type('customized', customizer => 'public.customizer');
		SELECT whisperer.subscribe(t, '@{[$receiver->url("/$database")]}-' || t) FROM unnest(ARRAY['called', 'by_row', 'by_statement', 'serialized', 'customized']) t;
		SELECT whisperer.attach('by_row', 'by_row'), whisperer.attach('serialized', 'serialized'), whisperer.attach('customized', 'customized');
		CREATE TRIGGER raise AFTER INSERT ON by_statement REFERENCING NEW TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('by_statement')});
	# How a payload (or body) of so many bytes comes to be, all but 9 of them in a text. Plain, and with a hundred characters that are longer in UTF-8.
	my %ways = (
		called => sub { "SELECT whisperer.deliver_event(jsonb_build_object('x', public.filled($_[0] - 9, $_[1])), 'called')" },
		by_row => sub { "INSERT INTO by_row VALUES (public.filled($_[0] - 9, $_[1]))" },
		by_statement => sub { "INSERT INTO by_statement VALUES ('short'), (public.filled($_[0] - 9, $_[1]))" },
		serialized => sub { "INSERT INTO serialized VALUES ($_[0])" }, customized => sub { "INSERT INTO customized VALUES ($_[0])" });
	for my $way (sort keys %ways)
	{
		my @wide = $way =~ /ized$/ ? 100 : (0, 100);
		for my $wide (@wide)
		{
			is(($code->($database, $ways{$way}->($limit, $wide)))[0], '00000', "$database, $way, $wide wide: $limit bytes are taken");
			my ($state, $error) = $code->($database, $ways{$way}->($limit + 1, $wide));
			is($state, '54000', '... one more is not');
			like($error, qr/(?:payload|customized body) of @{[$limit + 1]} bytes is larger than whisperer\.max_payload_size\nDETAIL:  At most $limit bytes are delivered\.\nHINT:  \S/, '... and the error says how many, what is allowed, and what to do');
		}
		my $events = $way eq 'by_statement' ? 4 : scalar @wide;
		$node->wait_settled($database);
		is(join(' ', grep { $_ > 20 } $arrived->("/$database-$way", $events, $way eq 'customized')), join(' ', ($limit) x @wide), '... what was taken arrives whole');
		is($node->safe_psql($database, "SELECT count(*) FROM whisperer.webhook_events WHERE event_type = '$way'"), $events, '... and nothing is left of the rest');
	}

	# trigger_errors = record: the statement goes on.
	$receiver->forget;
	for my $way (qw(by_row by_statement serialized customized))
	{
		my $before = $node->safe_psql($database, "SELECT count(*) FROM $way");
		my ($state, $said) = $code->($database, join("; ", "SET whisperer.trigger_errors = record", map { $ways{$way}->($_, 100) } $limit, $limit + 1));
		is($state, '00000', "$database, $way, recorded: the statement goes on");
		is(scalar(() = $said =~ /WARNING:  /g), 1, '... with one warning') or diag($said);
		is($node->safe_psql($database, "SELECT count(*) FROM $way") - $before, $way eq 'by_statement' ? 4 : 2, '... and its rows are there');
		$node->wait_settled($database);
		is($node->safe_psql($database, "SELECT state, request_payload IS NULL, retry_count, error ~ 'of @{[$limit + 1]} bytes is larger than whisperer.max_payload_size' FROM whisperer.webhook_events WHERE event_type = '$way' AND state <> 'delivered'"),
			'failed|t|0|t', '... one failed delivery, with the reason and without a body');
		is(join(' ', grep { $_ > 20 } $arrived->("/$database-$way", 1, $way eq 'customized')), $limit, '... and the other arrives');
	}
}
unlike($node->log_since(0), qr/\b(?:FATAL|PANIC):/, 'nothing broke');
$node->stop;
done_testing();
