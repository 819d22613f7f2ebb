# Bodies are UTF-8 whatever the database's encoding; what cannot be made so is refused; a response that
# is not text is recorded all the same.
use strict;
use warnings;
use utf8;

use Encode qw(decode_utf8 encode_utf8);
use JSON::XS ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
my %databases = (utf8 => 'UTF8', latin1 => 'LATIN1', eucjp => 'EUC_JP', ascii => 'SQL_ASCII');
for my $database (sort keys %databases)
{
	$node->safe_psql('postgres',
		"CREATE DATABASE $database ENCODING '$databases{$database}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
	$node->create_whisperer($database);
	$node->safe_psql(
		$database, qq{
		CREATE TABLE word (id integer, word text);
		SELECT whisperer.register_event_type('word');
		SELECT whisperer.attach('word', 'word');
		SELECT whisperer.subscribe('word', '@{[$receiver->url("/$database")]}', 'the secret')});
}
my $words = sub {
	my ($database, $count) = @_;
	return map { JSON::XS->new->utf8->decode($_->{body})->{payload}{word} } $receiver->await("/$database", $count);
};
# A file, so that no command line comes between us and the bytes.
my $run_bytes = sub {
	my ($database, $encoding, $sql) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/bytes.sql";
	unlink $file;
	append_to_file($file, "SET client_encoding = '$encoding';\n$sql\n");
	return $node->psql($database, "\\i $file");
};

# Every kind of Unicode.
my @kinds = ('ä é ß', "e\x{301} combining", '中文 日本語 한국어', 'العربية עברית', "\x{1F600}\x{1F468}\x{200D}\x{1F469}",
	"line\x{2028}paragraph\x{2029}", "\x{FEFF}bom", "\x{FFFD}\x{E000}\x{10FFFF}", "\x{200F}\x{202E}",
	"quote \" backslash \\ slash / tab \t newline \n control \x{1}\x{1F}\x{7F}\x{85}", 'ﷺ' x 100);
for my $word (@kinds)
{
	$run_bytes->('utf8', 'UTF8', encode_utf8("INSERT INTO word VALUES (1, \$w\$$word\$w\$);"));
}
is_deeply([ sort($words->('utf8', scalar @kinds)) ], [ sort @kinds ], 'UTF8: every kind of Unicode');
is(scalar(grep { $_->[1] ne 'ok' } $receiver->verify('/utf8', 'the secret')), 0, 'UTF8: signatures hold');

# LATIN1.
$run_bytes->('latin1', 'LATIN1', "INSERT INTO word VALUES (1, 'Gr\xfc\xdfe \xa3 \xff');");
is(($words->('latin1', 1))[0], "Gr\xfc\xdfe \xa3 \xff", 'LATIN1: the body is UTF-8');
is($receiver->verify('/latin1', 'the secret') && ($receiver->verify('/latin1', 'the secret'))[0][1], 'ok',
	'LATIN1: the signature is of the bytes sent');

# EUC_JP, in which the bytes of UTF-8 are no text: neither the install script nor a message may have any.
$run_bytes->('eucjp', 'UTF8', encode_utf8("INSERT INTO word VALUES (1, '日本');"));
is(($words->('eucjp', 1))[0], '日本', 'EUC_JP: the body is UTF-8');
my (undef, undef, $refused) = $run_bytes->('eucjp', 'UTF8', q(SELECT whisperer.deliver_event(1, 'word');));
like($refused, qr/HINT:  Give a row, such as deliver_event\(package, \.\.\.\)/, 'EUC_JP: a hint can be read');

# SQL_ASCII: bytes that are UTF-8 pass, others are refused.
$run_bytes->('ascii', 'SQL_ASCII', encode_utf8("INSERT INTO word VALUES (1, 'grün 中');"));
is(($words->('ascii', 1))[0], 'grün 中', 'SQL_ASCII: bytes that are UTF-8');
my ($code, $output, $errors) = $run_bytes->('ascii', 'SQL_ASCII', "\\set VERBOSITY verbose\nINSERT INTO word VALUES (2, 'caf\xe9');");
like($errors, qr/ERROR:  22021:/, 'SQL_ASCII: other bytes are refused with 22021');
($code, $output, $errors) =
  $run_bytes->('ascii', 'SQL_ASCII', "\\set VERBOSITY verbose\nINSERT INTO word VALUES (2, '\xed\xa0\x80');");
like($errors, qr/ERROR:  22021:/, 'SQL_ASCII: surrogates, too');
is($node->safe_psql('ascii', 'SELECT count(*) FROM word'), '1', 'and the statement failed');
for my $field ([target_url => "'word', 'http://a/\xe9'"], [event_type => "'\xe9', 'http://a/'"], [secret_key => "'word', 'http://a/', '\xe9'"],
	[additional_headers => qq('word', 'http://a/', additional_headers => '{"X-Name": "\xe9"}')],
	['config.auth.password' => qq('word', 'http://a/', config => '{"auth": {"auth_type": "basic", "username": "u", "password": "\xe9"}}')])
{
	($code, $output, $errors) = $run_bytes->('ascii', 'SQL_ASCII', "\\set VERBOSITY verbose\nSELECT whisperer.subscribe($field->[1]);");
	like($errors, qr/ERROR:  22021:.*CONTEXT:  \Q$field->[0]\E$/ms, "SQL_ASCII: $field->[0]: 22021, with the field's name");
}

# Responses that are not text in the database's encoding, or not text at all.
my @responses = ("\xff\xfe\x00\x01 not text", encode_utf8('12 € 中'), "cut \xe4\xb8", "\x00", join('', map { chr } 0 .. 255));
for my $database (sort keys %databases)
{
	for my $status (200, 410)
	{
		$receiver->forget;
		$receiver->answer("/$database", map { { status => 200, body_base64 => encode_base64($_, '') } } @responses);
		$receiver->answer("/$database", { status => 410, body_base64 => encode_base64($responses[4], '') }) if $status == 410;
		my $events = $status == 410 ? 1 : @responses;
		$node->safe_psql($database, "INSERT INTO word SELECT 10, 'plain' FROM generate_series(1, $events)");
		$receiver->await("/$database", $events);
		$node->wait_settled($database);
	}
	is($node->safe_psql($database, q{SELECT count(*) FROM whisperer.webhook_events WHERE state = 'delivered' AND response_content <> ''}),
		scalar @responses, "$database: odd responses are recorded");
	is($node->safe_psql($database, q{SELECT count(*) FROM whisperer.failed WHERE response_http_status = 410 AND response_content <> ''}),
		'1', "$database: that of a failure, too");
	is($node->safe_psql($database, q{SELECT count(*) FROM whisperer.pending}), '0', "$database: nothing is left");
	if ($database !~ /^(?:latin1|eucjp)$/) # which have no €
	{
		like(decode_utf8($node->safe_psql($database, q{SET client_encoding = 'UTF8';
			SELECT string_agg(response_content, ' ') FROM whisperer.webhook_events})), qr/12 € 中/, "$database: text is kept as it is");
	}
}

done_testing();
