# Both signatures (parity row 12), for every kind of secret, verified by implementations that are not ours: the
# standardwebhooks package, Node's HMAC (verify.mjs) and Perl's.
use strict;
use warnings;
use utf8;

use Digest::SHA qw(hmac_sha256_base64 hmac_sha256_hex);
use Encode qw(encode_utf8);
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my %secrets = (
	'/plain' => 'plain text',
	'/short' => 'x',
	'/long' => 'long ' x 200,
	'/unicode' => 'Schlüssel 钥匙 🔑',
	'/whsec' => 'whsec_' . encode_base64(join('', map { chr } 0 .. 31), ''),
	'/almost' => 'WHSEC_' . encode_base64('upper case is no prefix', ''),
);
# Bytes that need all of base64's alphabet, and padding.
$secrets{'/padded'} = 'whsec_' . encode_base64("\xfb\xff\xfe key \xff\xef", '');

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
my $literal = sub { encode_utf8($_[0]) =~ s/'/''/gr };

$node->safe_psql('postgres', q{SELECT whisperer.register_event_type('signed')});
for my $path (sort keys %secrets)
{
	$node->safe_psql('postgres',
		"SELECT whisperer.subscribe('signed', '@{[$receiver->url($path)]}', '@{[$literal->($secrets{$path})]}')");
}

# Bodies: empty, of every kind of text, and a large one.
$node->safe_psql('postgres', $_) for (
	q{SELECT whisperer.deliver_event('{}'::jsonb, 'signed')},
	encode_utf8(q{SELECT whisperer.deliver_event('{"text": "ä 中 😀 \\u0001 \\" \\\\ / \\u2028"}'::jsonb, 'signed')}),
	q{SELECT whisperer.deliver_event(jsonb_build_object('text', repeat('0123456789', 60000)), 'signed')});

for my $path (sort keys %secrets)
{
	my $secret = encode_utf8($secrets{$path});
	my @requests = $receiver->await($path, 3);
	is(scalar @requests, 3, "$path: three requests");

	my $key = $secret =~ /^whsec_(.*)/ ? decode_base64($1) : $secret;
	for my $request (@requests)
	{
		my $header = $request->{header};
		my $what = "$path, " . length($request->{body}) . ' bytes';
		is( $header->{'x-whisperer-signature'},
			'sha256=' . hmac_sha256_hex($request->{body}, $secret),
			"$what: X-Whisperer-Signature");
		# Perl's base64 has no padding.
		is( $header->{'webhook-signature'},
			'v1,' . hmac_sha256_base64("$header->{'webhook-id'}.$header->{'webhook-timestamp'}.$request->{body}", $key) . '=',
			"$what: webhook-signature");
	}
	my @verified = $receiver->verify($path, $secret);
	is(join(' ', map { $_->[1] } @verified), 'ok ok ok', "$path: verified by standardwebhooks and Node");
}

# A changed secret signs from the next attempt on; a removed one signs nothing.
my $url = $receiver->url('/plain');
my $change = sub {
	$node->safe_psql('postgres',
		"SELECT whisperer.update_subscription(id, '{\"secret_key\": $_[0]}') FROM whisperer.subscriptions WHERE target_url = '$url'");
	$receiver->forget;
	$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{"n": 4}'::jsonb, 'signed')});
	return ($receiver->await('/plain', 1))[0];
};
$change->('"another secret"');
is(($receiver->verify('/plain', 'another secret'))[0][1], 'ok', 'a changed secret');
isnt(($receiver->verify('/plain', 'plain text'))[0][1], 'ok', 'and the old one does not verify');
ok(!exists $change->('null')->{header}{'webhook-signature'}, 'no signature once the secret is removed');

# No secret is shown anywhere.
my $shown = join '', map { $node->safe_psql('postgres', "SELECT * FROM whisperer.$_") }
  qw(subscriptions webhook_events subscription_health workers event_types statistics);
unlike($shown, qr{\Q$secrets{'/almost'}\E|another secret|whsec_}, 'no view shows a secret');
unlike($node->log_since(0), qr{\Q$secrets{'/almost'}\E|another secret|whsec_}, 'nor does the log');

done_testing();
