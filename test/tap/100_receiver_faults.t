# Every way in which a receiver answers or does not: what is recorded of the attempt, and what comes next (parity rows 20,
# 21, 22).
use strict;
use warnings;

use IO::Compress::Gzip ();
use MIME::Base64 qw(encode_base64);
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use File::Spec;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $base = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
my %tls;
for my $which (qw(good other expired))
{
	my $directory = "$base/$which";
	mkdir $directory or die "$directory: $!";
	my $make = $which eq 'expired' ? 'make_expired_certificate' : 'make_certificate';
	@{ $tls{$which} }{qw(cert key)} = Whisperer::Receiver->can($make)->($directory, 'DNS:localhost');
}
chmod 0755, $base;
append_to_file("$base/ca.crt", slurp_file($tls{$_}{cert})) for qw(good expired);
my $receiver = Whisperer::Receiver->new(listen => [
	{ name => 'main' }, { name => 'resets', accept => 'reset' },
	{ name => 'closes', accept => 'close' }, { name => 'silent', accept => 'hang' },
	{ name => 'secure', tls => $tls{good} }, { name => 'unknown', tls => $tls{other} }, { name => 'expired', tls => $tls{expired} },
	{ name => 'old', tls => { %{ $tls{good} }, minVersion => 'TLSv1', maxVersion => 'TLSv1.1', ciphers => 'DEFAULT@SECLEVEL=0' } } ]);
$receiver->refusing_port('down');
my $node = Whisperer::Node->started('main', settings => "whisperer.max_response_size = '4kB'\nwhisperer.ca_file = '$base/ca.crt'
whisperer.request_timeout = 600"); # so that whoever has no time-out of its own and waits for one is found
sub sql { return $node->safe_psql('postgres', $_[0]); }

my $http_date = sub { return strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time() + $_[0])); };
my $gzip = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03";
my $bomb = compress('x' x 20_000_000);
my $head = "HTTP/1.1 200 OK\r\n";
my $countdown = 500;    # seconds: longer than the test, so that each case makes one attempt
my $cut = qr/^the response ended before it was whole: /;
my $not_http = qr/^the response is not HTTP: /;
# Long enough for a slow machine to bring what comes before the silence; what trickles would take three times as long.
my $slow = { request_timeout => 20 };
my $too_large = qr/^the response's headers are larger than 64 kB/;
sub https { my ($port, $host) = @_; return $receiver->url('/', port => $port, scheme => 'https', host => $host // 'localhost'); }

# name => { step, url, config: what there is; status, error, content, state, wait: what is recorded }
# Without status: none. Without error: none. Without state: pending, the next attempt after wait (the countdown).
# or: where versions of libcurl differ, a failure with this error will do as well.
my %cases = (
	# ---- No response
	refused => { url => $receiver->url('/', port => 'down'), error => qr/^Failed to connect to 127\.0\.0\.1(?: port |:)\d+ after \d+ ms: (?:Couldn't|Could not) connect to server$/ },
	reset_at_accept => { url => $receiver->url('/', port => 'resets'), error => qr/reset by peer|^the response ended before it was whole|failure when receiving|^Failed to connect/i },
	closed_at_accept => { url => $receiver->url('/', port => 'closes'), error => qr/empty reply|reset by peer|failure when/i },
	silent_at_accept => { url => $receiver->url('/', port => 'silent'), config => $slow, error => qr/^no response within 20 s \(name lookup \d+ ms, connect \d+ ms, TLS \d+ ms, sent \d+ bytes, received 0 bytes; \d+ ms in all\)$/ },
	reset_in_request => { step => { cut => 'head' }, error => qr/reset by peer|failure when/i },
	reset_after_request => { step => { cut => 'request' }, error => qr/reset by peer|failure when/i },
	closed_after_request => { step => { cut => 'request', how => 'close' }, error => qr/empty reply/i },
	silent_before_body => { step => { hang => 'head' }, config => $slow, error => qr/^no response within 20 s/ },
	silent_before_headers => { step => { hang => 'request' }, config => $slow, error => qr/^no response within 20 s/ },
	no_such_host => { url => 'http://no-such-host.invalid/', error => qr/no-such-host\.invalid/ },
	# ---- TLS
	self_signed => { url => https('unknown'), error => qr/^SSL certificate (?:problem|OpenSSL verify result): self.signed certificate/ },
	expired => { url => https('expired'), error => qr/^SSL certificate (?:problem|OpenSSL verify result): certificate has expired/ },
	wrong_name => { url => https('secure', '127.0.0.1'), error => qr/^SSL: no alternative certificate subject name matches target/ },
	below_1_2 => { url => https('old'), error => qr/protocol version|unsupported protocol|SSL_ERROR|alert/i },
	handshake_hangs => { url => https('silent'), config => $slow, error => qr/^no connection within 20 s \(name lookup \d+ ms, connect \d+ ms, TLS 0 ms, / },
	handshake_reset => { url => https('resets'), error => qr/reset|SSL|Failed to connect/i },
	# Not a time-out, which says TLS, too.
	handshake_closed => { url => https('closes'), error => qr/^(?!no connection).*(?:SSL|TLS|closed)/i },
	no_tls => { url => https('main'), error => qr/^(?!no connection).*(?:SSL|TLS)/ },
	plain_to_tls => { url => $receiver->url('/', port => 'secure'), error => qr/reset by peer|empty reply|failure when|not HTTP/i },
	# ---- Not a whole response
	closed_in_headers => { step => { raw => "HTTP/1.1 200 OK\r\nContent-Le" }, error => $cut, status => 200 },
	closed_in_status_line => { step => { raw => 'HTTP/1.1 20' }, error => qr/$cut|$not_http/ },
	reset_in_headers => { step => { raw => "HTTP/1.1 200 OK\r\nContent-Le", cut => 'end' }, error => $cut, status => 200 },
	reset_in_body => { step => { body => 'twohalves', cut => 'body' }, error => $cut, status => 200, content => 'twoh' },
	silent_in_headers => { step => { raw => "HTTP/1.1 200 OK\r\nContent-Le", hang => 'end' }, config => $slow, error => qr/^the response was not complete within 20 s/, status => 200 },
	silent_before_end => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", hang => 'end' }, config => $slow, error => qr/^the response was not complete within 20 s/, status => 200, content => 'hello' },
	byte_a_second => { step => { body_size => 1000, trickle => { bytes => 1, interval => 1000 } }, config => $slow, error => qr/^the response was not complete within 20 s/, status => 200, content => qr/^x{1,999}$/ },
	headers_byte_by_byte => { step => { raw => $head . 'X-Flood: ' . ('x' x 2000), trickle => { bytes => 1, interval => 30 } }, config => $slow, error => qr/^the response was not complete within 20 s/, status => 200 },
	reset_after_headers => { step => { body => 'never', cut => 'headers' }, error => $cut, status => 200, content => '' },
	closed_after_headers => { step => { body => 'never', cut => 'headers', how => 'close' }, error => $cut, status => 200, content => '' },
	closed_in_body => { step => { body => 'twohalves', cut => 'body', how => 'close' }, error => $cut, status => 200, content => 'twoh' },
	error_cut_short => { step => { status => 410, body => 'twohalves', cut => 'body', how => 'close' }, error => $cut, status => 410, content => 'twoh' },
	silent_in_body => { step => { body => 'twohalves', hang => 'body' }, config => $slow, error => qr/^the response was not complete within 20 s/, status => 200, content => 'twoh' },
	trickle => { step => { body_size => 1000, trickle => { bytes => 1, interval => 60 } }, config => $slow, error => qr/^the response was not complete within 20 s/, status => 200, content => qr/^x{1,999}$/ },
	length_too_long => { step => { body => 'short', content_length => 500, close => \1 }, error => $cut, status => 200, content => 'short' },
	chunk_malformed => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n" }, error => $cut, status => 200 },
	chunk_missing => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" }, error => $cut, status => 200, content => 'hello' },
	chunk_negative => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n" }, error => $cut, status => 200, content => '' },
	chunk_of_2_to_the_70 => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n400000000000000000\r\nhello\r\n0\r\n\r\n" }, error => $cut, status => 200, content => '' },
	chunk_longer_than_said => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n" }, error => $cut, status => 200, content => 'hel' },
	trailers_without_end => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" . "X-Flood: @{['x' x 1013]}\r\n" x 100, endless => \1 }, error => $too_large, status => 200, content => 'hello' },
	trailers_cut => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n" }, error => $cut, status => 200, content => 'hello' },
	only_informational => { step => { raw => "HTTP/1.1 103 Early Hints\r\n\r\n" }, error => $cut },
	# ---- Not HTTP
	http_0_9 => { step => { raw => "<html>hello</html>\n" }, error => $not_http },
	nonsense => { step => { raw => "HTTP/1.1 fine\r\n\r\n" }, error => $not_http },
	status_of_four_digits => { step => { raw => "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n" }, error => qr/$not_http|^the response does not begin with an HTTP status line$/ },
	ssh => { step => { raw => "SSH-2.0-OpenSSH_9.2\r\n" }, error => $not_http },
	binary => { step => { raw_base64 => encode_base64("\0\1\2\xff" x 100, '') }, error => $not_http },
	endless_informational => { step => { raw => "HTTP/1.1 103 Early Hints\r\n\r\n" x 50, endless => \1 }, error => $too_large },
	endless_slow_informational => { step => { raw => "HTTP/1.1 100 Continue\r\n\r\n" x 2000, trickle => { bytes => 25, interval => 100 } }, config => $slow, error => qr/^no response within 20 s/ },
	endless_headers => { step => { raw => "HTTP/1.1 200 OK @{['.' x 16]}\r\n" . "X-Flood: @{['x' x 23]}\r\n" x 999, endless => \1 }, error => $too_large, status => 200 },
	endless_nonsense => { step => { raw => 'x' x 1000, endless => \1 }, error => $not_http },
	headers_of_1_mb => { step => { raw => $head . "X-Flood: @{['x' x 1013]}\r\n" x 1024 . "\r\n" }, error => $too_large, status => 200 },
	header_line_of_1_mb => { step => { raw => $head . 'X-Flood: ' . ('x' x 1_048_576) . "\r\n\r\n" }, error => $too_large, status => 200 },
	headers_10000 => { step => { raw => $head . join('', map { "X-$_: value\r\n" } 10_000 .. 19_999) . "\r\n" }, error => $too_large, status => 200 },
	nul_in_header => { step => { raw => "${head}X-A: a\0b\r\nContent-Length: 2\r\n\r\nok" }, error => $not_http, status => 200 },
	nul_in_status_line => { step => { raw => "HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok" }, error => $not_http },
	length_negative => { step => { raw => "${head}Content-Length: -5\r\n\r\nhello" }, error => $not_http, status => 200 },
	length_garbage => { step => { raw => "${head}Content-Length: five\r\n\r\nhello" }, error => $not_http, status => 200 },
	length_of_30_digits => { step => { raw => "${head}Content-Length: @{['9' x 30]}\r\n\r\nhello" }, status => 200, content => 'hello', state => 'delivered', or => $not_http },
	two_lengths => { step => { raw => "${head}Content-Length: 2\r\nContent-Length: 5\r\n\r\nhello" }, status => 200, content => 'hello', state => 'delivered', or => $not_http },
	length_and_chunks => { step => { raw => "${head}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" }, status => 200, content => 'hello', state => 'delivered', or => $not_http },
	upgrade => { step => { raw => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello" }, error => qr/^the response switches protocols \(101\)/ },
	header_flood => { step => { raw => $head . ("X-Flood: " . ('x' x 1000) . "\r\n") x 200 . "\r\n" }, error => qr/^the response's headers are larger than 64 kB$/, status => 200 },
	one_long_header => { step => { raw => $head . 'X-Flood: ' . ('x' x 300_000) . "\r\n\r\n" }, error => qr/^the response's headers are larger than 64 kB/, status => 200 },
	# ---- Success
	(map { ("healthy_$_" => { step => { body => 'well' }, status => 200, content => 'well', state => 'delivered' }) } 1 .. 20),
	ok => { step => { body => 'thanks' }, status => 200, content => 'thanks', state => 'delivered' },
	created => { step => { status => 201 }, status => 201, content => '', state => 'delivered' },
	no_content => { step => { status => 204 }, status => 204, content => '', state => 'delivered' },
	highest => { step => { status => 299 }, status => 299, content => '', state => 'delivered' },
	chunked => { step => { body => 'in chunks', chunked => \1 }, status => 200, content => 'in chunks', state => 'delivered' },
	until_close => { step => { raw => "${head}\r\nuntil it closes" }, status => 200, content => 'until it closes', state => 'delivered' },
	http_1_0 => { step => { raw => "HTTP/1.0 200 OK\r\n\r\nold" }, status => 200, content => 'old', state => 'delivered' },
	informational => { step => { raw => "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${head}Content-Length: 2\r\n\r\nok" }, status => 200, content => 'ok', state => 'delivered' },
	length_too_short => { step => { body => 'hello', content_length => 2 }, status => 200, content => 'he', state => 'delivered' },
	limit => { step => { body_size => 4096 }, status => 200, content => 'x' x 4096, state => 'delivered' },
	over_limit => { step => { body_size => 4097 }, status => 200, content => ('x' x 4096) . "\n[whisperer: the response was longer than 4096 bytes, the rest was not read]", state => 'delivered' },
	over_limit_within_a_character => { step => { body_base64 => encode_base64('x' x 4095 . "\xe2\x82\xac" x 10, '') }, status => 200, content => ('x' x 4095) . "\n[whisperer: the response was longer than 4096 bytes, the rest was not read]", state => 'delivered' },
	chunk_extensions => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n5;a=b;c=\"d;e\"\r\nhello\r\n0;x\r\n\r\n" }, status => 200, content => 'hello', state => 'delivered' },
	trailers => { step => { raw => "${head}Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n" }, status => 200, content => 'hello', state => 'delivered' },
	informational_flood => { step => { raw => "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" x 500 . "${head}Content-Length: 2\r\n\r\nok" }, status => 200, content => 'ok', state => 'delivered' },
	continue_unasked => { step => { raw => "HTTP/1.1 100 Continue\r\n\r\n${head}Content-Length: 2\r\n\r\nok" }, status => 200, content => 'ok', state => 'delivered' },
	junk_behind_close => { step => { raw => "${head}Content-Length: 2\r\nConnection: close\r\n\r\nokHTTP/1.1 500 No\r\n\r\n" }, status => 200, content => 'ok', state => 'delivered' },
	endless => { step => { body_size => 50_000, content_length => 1_000_000_000 }, status => 200, content => qr/^x{4096}\n\[whisperer: the response was longer/, state => 'delivered' },
	endless_error => { step => { status => 500, body_size => 50_000, content_length => 1_000_000_000 }, status => 500, error => qr/500/, content => qr/^x{4096}\n\[whisperer: / },
	endless_chunks => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n" . "400\r\n@{['x' x 1024]}\r\n" x 100 , endless => \1 }, status => 200, content => qr/^x{4096}\n\[whisperer: the response was longer/, state => 'delivered' },
	endless_until_close => { step => { raw => "$head\r\n" . 'x' x 10_000, endless => \1 }, status => 200, content => qr/^x{4096}\n\[whisperer: the response was longer/, state => 'delivered' },
	bomb => { step => { body_base64 => encode_base64($bomb, ''), headers => [ [ 'Content-Encoding', 'gzip' ] ] }, status => 200, content => qr/^\[whisperer: not valid text, bytes escaped\]\n\\x1f\\x8b.*\[whisperer: the response was longer than 4096 bytes/s, state => 'delivered' },
	transfer_bomb => { step => { raw_base64 => encode_base64("${head}Transfer-Encoding: gzip, chunked\r\n\r\n" . sprintf("%x\r\n", length $bomb) . "$bomb\r\n0\r\n\r\n", '') }, status => 200, content => qr/^\[whisperer: not valid text, bytes escaped\]\n\\x1f\\x8b.*\[whisperer: the response was longer than 4096 bytes/s, state => 'delivered', or => $not_http },
	newline_in_header => { step => { raw => "${head}X-A: a\nX-Whisperer: smuggled\nContent-Length: 2\r\n\r\nok" }, status => 200, content => 'ok', state => 'delivered' },
	return_in_header => { step => { raw => "${head}X-A: a\rSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok" }, status => 200, content => 'ok', state => 'delivered', or => $not_http },
	folded_header => { step => { raw => "${head}X-A: a\r\n b\r\nContent-Length: 2\r\n\r\nok" }, status => 200, content => 'ok', state => 'delivered' },
	invalid_utf8_in_header => { step => { raw => "${head}X-A: \xff\xfe\r\nContent-Length: 2\r\n\r\nok" }, status => 200, content => 'ok', state => 'delivered' },
	invalid_utf8_in_status_line => { step => { raw => "HTTP/1.1 500 \xff\e[31m\r\nContent-Length: 2\r\n\r\nno" }, status => 500, error => qr/500/, content => 'no' },
	compressed => { step => { body_base64 => encode_base64($gzip, ''), headers => [ [ 'Content-Encoding', 'gzip' ] ] }, status => 200, content => "[whisperer: not valid text, bytes escaped]\n\\x1f\\x8b\\x08\\x00\\x00\\x00\\x00\\x00\\x00\\x03", state => 'delivered' },
	unknown_coding => { step => { body => 'plain', headers => [ [ 'Content-Encoding', 'nonsense' ] ] }, status => 200, content => 'plain', state => 'delivered' },
	nul => { step => { body_base64 => encode_base64("a\0b", '') }, status => 200, content => "[whisperer: not valid text, bytes escaped]\na\\x00b", state => 'delivered' },
	invalid_utf8 => { step => { body_base64 => encode_base64("a\xffb\\", '') }, status => 200, content => "[whisperer: not valid text, bytes escaped]\na\\xffb\\\\", state => 'delivered' },
	# ---- Other statuses
	(map { ("redirect_$_" => { step => { status => $_, headers => [ [ 'Location', $receiver->url('/followed') ] ] }, status => $_, error => qr/\b$_\b/, content => '' }) } 301, 302, 303, 307, 308),
	redirect_without_location => { step => { status => 302 }, status => 302, error => qr/\b302\b/, content => '' },
	not_modified => { step => { raw => "HTTP/1.1 304 Not Modified\r\n\r\n" }, status => 304, error => qr/\b304\b/, content => '' },
	(map { ("status_$_" => { step => { status => $_, body => 'no' }, status => $_, error => qr/\b$_\b/, content => 'no' }) } 300, 400, 401, 403, 404, 413, 429, 500, 503, 599, 999),
	gone => { step => { status => 410, body => 'gone', headers => [ [ 'Retry-After', '30' ] ] }, status => 410, error => qr/\b410\b/, content => 'gone', state => 'failed' },
	last_attempt => { step => { status => 500 }, config => { max_attempts => 1 }, status => 500, error => qr/\b500\b/, content => '', state => 'failed' },
	last_refused => { url => $receiver->url('/last', port => 'down'), config => { max_attempts => 1 }, error => qr/^Failed to connect/, state => 'failed' },
	# ---- Retry-After: the larger of it and the countdown
	(map {
		my ($name, $value, $wait) = @$_;
		map { ("after_${name}_$_" => { step => { status => $_, headers => [ [ 'Retry-After', $value ] ] }, status => $_, error => qr/\b$_\b/, content => '', wait => $wait }) } 429, 503
	} [ seconds => '600', 600 ], [ smaller => '400', $countdown ], [ date => $http_date->(900), 900 ],
		[ past => $http_date->(-900), $countdown ], [ garbage => 'soon', $countdown ], [ negative => '-600', $countdown ],
		[ fraction => '600.5', $countdown ], [ zero => '0', $countdown ],
		[ huge => '99999999999999999999', 86400 ], [ far => 'Fri, 31 Dec 9999 23:59:59 GMT', 86400 ]),
	after_in_trailer => { step => { raw => "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nRetry-After: 600\r\n\r\n" }, status => 503, error => qr/\b503\b/, content => '' },
	after_on_500 => { step => { status => 500, headers => [ [ 'Retry-After', '600' ] ] }, status => 500, error => qr/\b500\b/, content => '' },
	after_on_200 => { step => { status => 200, headers => [ [ 'Retry-After', '600' ] ] }, status => 200, content => '', state => 'delivered' },
);

sub compress { my ($bytes) = @_; IO::Compress::Gzip::gzip(\$bytes, \my $small) or die 'gzip'; return $small; }
sub quote { return "'" . ($_[0] =~ s/'/''/gr) . "'"; }

my $statements = "SELECT whisperer.register_event_type(t) FROM unnest('{" . join(',', sort keys %cases) . "}'::text[]) t;\n";
for my $name (sort keys %cases)
{
	my $case = $cases{$name};
	$receiver->answer("/$name", $case->{step}) if $case->{step};
	my $config = JSON::XS->new->canonical->encode($case->{config} // {});
	$statements .= "SELECT whisperer.subscribe('$name', " . quote($case->{url} // $receiver->url("/$name"))
	  . qq{, retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": $countdown}}', config => '$config');\n};
}
sql($statements);
sql("SELECT whisperer.deliver_event('{}', event_type) FROM whisperer.event_types");
my $unfinished = q{SELECT string_agg(event_type, ' ') FROM whisperer.webhook_events WHERE retry_count = 0};
$node->poll_until('postgres', $unfinished, '');

my $rows = JSON::XS->new->decode(sql(q{SELECT json_object_agg(event_type, json_build_object('state', state, 'delivered', delivered,
	'attempts', retry_count, 'times', cardinality(request_datetimes), 'status', response_http_status, 'error', error,
	'content', response_content, 'wait', extract(epoch FROM next_attempt_at - request_datetimes[1]),
	'time', extract(epoch FROM response_time))) FROM whisperer.webhook_events}));
note 'the longest: ', join ', ', map { sprintf '%s %.1f s', $_, $rows->{$_}{time} } (sort { $rows->{$b}{time} <=> $rows->{$a}{time} } keys %$rows)[ 0 .. 19 ];
for my $name (sort keys %cases)
{
	my ($case, $row) = ($cases{$name}, $rows->{$name});
	# What an attempt may take: its own time-out, and what a slow machine makes of it.
	my $timeout = $case->{config}{request_timeout} // 0;
	my $most = $timeout + 60;
	my $state = $case->{state} // 'pending';
	my @wrong;
	push @wrong, 'state' unless $row->{state} eq $state && ($row->{delivered} ? 1 : 0) == ($state eq 'delivered' ? 1 : 0);
	push @wrong, 'attempts' unless $row->{attempts} == 1 && $row->{times} == 1;
	push @wrong, 'status' unless ($row->{status} // 'none') eq ($case->{status} // 'none');
	push @wrong, 'error' unless defined $case->{error} ? ($row->{error} // '') =~ $case->{error} : !defined $row->{error};
	my $content = $case->{status} ? $case->{content} : undef;
	push @wrong, 'content' if defined $content && !defined $row->{content} || !$case->{status} && defined $row->{content};
	push @wrong, 'content' if defined $content && defined $row->{content} && (ref $content ? $row->{content} !~ $content : $row->{content} ne $content);
	# From the attempt's start to the next one: what the attempt took is added, and a date is counted from the test's start.
	my $wait = $case->{wait} // $countdown;
	push @wrong, 'wait' unless $state eq 'pending' ? $row->{wait} > $wait - ($name =~ /date/ ? 300 : 1) && $row->{wait} < $wait + $most : !defined $row->{wait};
	push @wrong, 'time' unless $row->{time} >= $timeout && $row->{time} < $most;
	push @wrong, 'control character' if ($row->{error} // '') =~ /[\x00-\x1f\x7f]/;
	@wrong = () if $case->{or} && !$row->{delivered} && $row->{state} eq 'pending' && $row->{wait} > $countdown - 1 && ($row->{error} // '') =~ $case->{or};
	is("@wrong", '', "$name: state, attempts, status, error, response and next attempt") or diag(explain($row));
}
is($receiver->count(path => '/followed'), 0, 'no redirect is followed');
is( sql(q{SELECT (SELECT max(modified_date) FROM whisperer.webhook_events WHERE event_type LIKE 'healthy_%')
		< (SELECT min(modified_date) FROM whisperer.webhook_events WHERE error ~ ' within 20 s ')}),
	't', 'nobody healthy waited for those that hang');

# What asked for a pause has one, longer than the test takes, and nothing else has.
is( sql(q{SELECT string_agg(event_type, ' ' ORDER BY event_type) FROM whisperer.subscription_health
		WHERE paused_until BETWEEN now() AND now() + interval '1 day'}),
	join(' ', sort map { ("after_$_" . '_429', "after_$_" . '_503') } qw(seconds smaller date huge far)),
	'only a Retry-After that is understood pauses');
is( sql(q{SELECT is_active, inactive_reason LIKE '%410%' FROM whisperer.subscriptions WHERE event_type = 'gone'}), 'f|t',
	'410: deactivated with its reason');
is(sql(q{SELECT count(*) FROM whisperer.subscriptions WHERE NOT is_active}), '1', 'nobody else is, also not after a 410 that was cut short');

# Health: what went wrong last.
is( sql(q{SELECT consecutive_failures, last_status, last_error ~ '404' FROM whisperer.subscription_health WHERE event_type = 'status_404'}),
	'1|404|t', 'subscription_health: the last status and error');

# What came after the announced length is not taken for the next answer.
sql(q{SELECT whisperer.deliver_event('{}', 'length_too_short') FROM generate_series(1, 5)});
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'length_too_short' AND delivered
	AND retry_count = 1 AND response_content = 'he'}, 6);
pass('excess bytes of a response do not become the next one');

# A connection kept alive that ends before, or just as, it is used again: the request is made again in the same attempt.
my $port = $receiver->refusing_port('kept');    # nobody else's while it is closed
$receiver->listen(name => 'kept', port => $port);
my $restart = sub { $receiver->unlisten('kept'); $receiver->listen(name => 'kept', port => $port); return; };
for my $case (
	# between two requests; on the second request: its head read, or all of it
	[ kept_restart => { status => 200 }, $restart ], [ kept_reset => { cut => 'request' } ], [ kept_close => { cut => 'request', how => 'close' } ],
	[ kept_head_reset => { cut => 'head' } ], [ kept_head_close => { cut => 'head', how => 'close' } ])
{
	my ($name, $step, $between) = @$case;
	$receiver->answer("/$name", { status => 200 }, $step, { status => 200 });
	my $url = $receiver->url("/$name", port => 'kept');
	sql(qq{SELECT whisperer.register_event_type('$name'); SELECT whisperer.subscribe('$name', '$url'); SELECT whisperer.deliver_event('{}', '$name')});
	my $delivered = "SELECT count(*) FROM whisperer.webhook_events WHERE event_type = '$name' AND delivered AND retry_count = 1";
	$node->poll_until('postgres', $delivered, 1);
	$between->() if $between;
	sql("SELECT whisperer.deliver_event('{}', '$name')");
	$node->poll_until('postgres', $delivered, 2);
	my @requests = $receiver->requests(path => "/$name");
	is(scalar @requests, $between ? 2 : 3, "$name: the connection had ended: made again, in the same attempt");
	is($requests[-1]{id} eq $requests[-2]{id} ? 'same' : 'other', $between ? 'other' : 'same', "$name: under the same id");
}

# A cookie is not kept: neither over the connection nor for the next one.
$receiver->answer('/cookie', { status => 200, headers => [ [ 'Set-Cookie', 'a=b; Path=/' ] ] });
sql(qq{SELECT whisperer.register_event_type('cookie'); SELECT whisperer.subscribe('cookie', '@{[$receiver->url('/cookie', port => 'kept')]}')});
for my $count (1 .. 3)
{
	sql(q{SELECT whisperer.deliver_event('{}', 'cookie')});
	$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'cookie' AND delivered}, $count);
	$restart->() if $count == 2;
}
is(scalar(grep { exists $_->{header}{cookie} } $receiver->requests), 0, 'cookies are not kept');

# With the right ca_file the certificate is good.
sql("ALTER SYSTEM SET whisperer.ca_file = '$tls{other}{cert}'");
sql('SELECT pg_reload_conf()');
sql(qq{SELECT whisperer.retry(uuid) FROM whisperer.pending WHERE event_type = 'self_signed'});
$node->poll_until('postgres', q{SELECT state FROM whisperer.webhook_events WHERE event_type = 'self_signed'}, 'delivered');
pass('whisperer.ca_file: a certificate it vouches for');
is($receiver->count(path => '/', port => 'secure') + $receiver->count(path => '/', port => 'expired'), 0, 'nothing was sent to those with a bad one');

unlike($node->log_since(0), qr/\b(ERROR|FATAL|PANIC):/, 'no error in the log');
$receiver->release;
$node->stop;
done_testing();
