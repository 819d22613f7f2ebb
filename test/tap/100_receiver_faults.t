# Every way in which a receiver answers or does not: what is recorded of the attempt, and what comes next (parity rows 20,
# 21, 22).
use strict;
use warnings;

use MIME::Base64 qw(encode_base64);
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use File::Spec;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $directory = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
my ($certificate, $key) = Whisperer::Receiver::make_certificate($directory, 'DNS:localhost');
chmod 0755, $directory;
my $tls = { cert => $certificate, key => $key };
my $receiver = Whisperer::Receiver->new(listen => [
	{ name => 'main' }, { name => 'down' }, { name => 'resets', accept => 'reset' },
	{ name => 'closes', accept => 'close' }, { name => 'silent', accept => 'hang' }, { name => 'secure', tls => $tls } ]);
$receiver->unlisten('down');
my $node = Whisperer::Node->started('main', settings => "whisperer.max_response_size = '4kB'");
sub sql { return $node->safe_psql('postgres', $_[0]); }

my $http_date = sub { return strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time() + $_[0])); };
my $gzip = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03";
my $head = "HTTP/1.1 200 OK\r\n";
my $countdown = 100;    # seconds: longer than the test, so that each case makes one attempt
my $cut = qr/^the response ended before it was whole: /;
my $not_http = qr/^the response is not HTTP: /;
my $slow = { request_timeout => 1 };

# name => { step, url, config: what there is; status, error, content, state, wait: what is recorded }
# Without status: none. Without error: none. Without state: pending, the next attempt after wait (the countdown).
my %cases = (
	# ---- No response
	refused => { url => $receiver->url('/', port => 'down'), error => qr/^Failed to connect to 127\.0\.0\.1 port \d+ after \d+ ms: (?:Couldn't|Could not) connect to server$/ },
	reset_at_accept => { url => $receiver->url('/', port => 'resets'), error => qr/reset by peer|^the response ended before it was whole|failure when receiving|^Failed to connect/i },
	closed_at_accept => { url => $receiver->url('/', port => 'closes'), error => qr/empty reply|reset by peer|failure when/i },
	silent_at_accept => { url => $receiver->url('/', port => 'silent'), config => $slow, error => qr/^no response within 1 s \(name lookup \d+ ms, connect \d+ ms, TLS \d+ ms, sent \d+ bytes, received 0 bytes; \d+ ms in all\)$/ },
	reset_in_request => { step => { cut => 'head' }, error => qr/reset by peer|failure when/i },
	reset_after_request => { step => { cut => 'request' }, error => qr/reset by peer|failure when/i },
	closed_after_request => { step => { cut => 'request', how => 'close' }, error => qr/empty reply/i },
	silent_before_headers => { step => { hang => 'request' }, config => $slow, error => qr/^no response within 1 s/ },
	no_such_host => { url => 'http://no-such-host.invalid/', error => qr/no-such-host\.invalid/ },
	self_signed => { url => $receiver->url('/', port => 'secure', scheme => 'https', host => 'localhost'), error => qr/^SSL certificate problem: self.signed certificate/ },
	no_tls => { url => $receiver->url('/', scheme => 'https'), error => qr/SSL|TLS/ },
	plain_to_tls => { url => $receiver->url('/', port => 'secure'), error => qr/reset by peer|empty reply|failure when|not HTTP/i },
	# ---- Not a whole response
	reset_in_headers => { step => { raw => "HTTP/1.1 200 OK\r\nContent-Le" }, error => $cut, status => 200 },
	reset_after_headers => { step => { body => 'never', cut => 'headers' }, error => $cut, status => 200, content => '' },
	closed_after_headers => { step => { body => 'never', cut => 'headers', how => 'close' }, error => $cut, status => 200, content => '' },
	closed_in_body => { step => { body => 'twohalves', cut => 'body', how => 'close' }, error => $cut, status => 200, content => 'twoh' },
	error_cut_short => { step => { status => 410, body => 'twohalves', cut => 'body', how => 'close' }, error => $cut, status => 410, content => 'twoh' },
	silent_in_body => { step => { body => 'twohalves', hang => 'body' }, config => $slow, error => qr/^the response was not complete within 1 s/, status => 200, content => 'twoh' },
	trickle => { step => { body_size => 1000, trickle => { bytes => 1, interval => 20 } }, config => $slow, error => qr/^the response was not complete within 1 s/, status => 200, content => qr/^x{1,70}$/ },
	length_too_long => { step => { body => 'short', content_length => 500, close => \1 }, error => $cut, status => 200, content => 'short' },
	chunk_malformed => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n" }, error => $cut, status => 200 },
	chunk_missing => { step => { raw => "${head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" }, error => $cut, status => 200, content => 'hello' },
	only_informational => { step => { raw => "HTTP/1.1 103 Early Hints\r\n\r\n" }, error => $cut },
	# ---- Not HTTP
	http_0_9 => { step => { raw => "<html>hello</html>\n" }, error => $not_http },
	nonsense => { step => { raw => "HTTP/1.1 fine\r\n\r\n" }, error => $not_http },
	status_of_four_digits => { step => { raw => "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n" }, error => qr/./ },
	ssh => { step => { raw => "SSH-2.0-OpenSSH_9.2\r\n" }, error => $not_http },
	binary => { step => { raw_base64 => encode_base64("\0\1\2\xff" x 100, '') }, error => $not_http },
	header_flood => { step => { raw => $head . ("X-Flood: " . ('x' x 1000) . "\r\n") x 200 . "\r\n" }, error => qr/^the response's headers are larger than 64 kB$/, status => 200 },
	one_long_header => { step => { raw => $head . 'X-Flood: ' . ('x' x 300_000) . "\r\n\r\n" }, error => qr/^the response's headers are larger than 64 kB/, status => 200 },
	# ---- Success
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
	endless => { step => { body_size => 50_000, content_length => 1_000_000_000 }, status => 200, content => qr/^x{4096}\n\[whisperer: the response was longer/, state => 'delivered' },
	endless_error => { step => { status => 500, body_size => 50_000, content_length => 1_000_000_000 }, status => 500, error => qr/500/, content => qr/^x{4096}\n\[whisperer: / },
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
	} [ seconds => '600', 600 ], [ smaller => '90', $countdown ], [ date => $http_date->(900), 900 ],
		[ past => $http_date->(-900), $countdown ], [ garbage => 'soon', $countdown ], [ negative => '-600', $countdown ],
		[ fraction => '600.5', $countdown ], [ zero => '0', $countdown ],
		[ huge => '99999999999999999999', 86400 ], [ far => 'Fri, 31 Dec 9999 23:59:59 GMT', 86400 ]),
	after_on_500 => { step => { status => 500, headers => [ [ 'Retry-After', '600' ] ] }, status => 500, error => qr/\b500\b/, content => '' },
	after_on_200 => { step => { status => 200, headers => [ [ 'Retry-After', '600' ] ] }, status => 200, content => '', state => 'delivered' },
);

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
$node->poll_until('postgres', $unfinished, '', 60);

my $rows = JSON::XS->new->decode(sql(q{SELECT json_object_agg(event_type, json_build_object('state', state, 'delivered', delivered,
	'attempts', retry_count, 'times', cardinality(request_datetimes), 'status', response_http_status, 'error', error,
	'content', response_content, 'wait', extract(epoch FROM next_attempt_at - request_datetimes[1]),
	'time', extract(epoch FROM response_time))) FROM whisperer.webhook_events}));
for my $name (sort keys %cases)
{
	my ($case, $row) = ($cases{$name}, $rows->{$name});
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
	push @wrong, 'wait' unless $state eq 'pending' ? $row->{wait} > $wait - ($name =~ /date/ ? 30 : 1) && $row->{wait} < $wait + 30 : !defined $row->{wait};
	push @wrong, 'time' unless $row->{time} >= ($case->{config}{request_timeout} // 0) && $row->{time} < 30;
	is("@wrong", '', "$name: state, attempts, status, error, response and next attempt") or diag(explain($row));
}
is($receiver->count(path => '/followed'), 0, 'no redirect is followed');

# What asked for a pause has one, and nothing else has.
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

# A kept-alive connection that was closed meanwhile is no failure.
$receiver->listen(name => 'kept');
my $port = $receiver->port('kept');
sql(qq{SELECT whisperer.register_event_type('kept'); SELECT whisperer.subscribe('kept', '@{[$receiver->url('/kept', port => 'kept')]}')});
sql(q{SELECT whisperer.deliver_event('{}', 'kept')});
$receiver->await('/kept', 1);
$receiver->unlisten('kept');
$receiver->listen(name => 'kept', port => $port);
sql(q{SELECT whisperer.deliver_event('{}', 'kept')});
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'kept' AND delivered AND retry_count = 1}, 2);
pass('a kept-alive connection that was closed: made again, in the same attempt');

# With the right ca_file the certificate is good, for the name it has.
sql("ALTER SYSTEM SET whisperer.ca_file = '$certificate'");
sql('SELECT pg_reload_conf()');
sql(qq{SELECT whisperer.retry(uuid) FROM whisperer.pending WHERE event_type = 'self_signed'});
$node->poll_until('postgres', q{SELECT state FROM whisperer.webhook_events WHERE event_type = 'self_signed'}, 'delivered');
pass('whisperer.ca_file: a certificate it vouches for');
sql(qq{SELECT whisperer.register_event_type('wrong_name'); SELECT whisperer.subscribe('wrong_name', '@{[
	$receiver->url('/wrong_name', port => 'secure', scheme => 'https')]}'); SELECT whisperer.deliver_event('{}', 'wrong_name')});
$node->poll_until('postgres', q{SELECT error ~ 'SSL: no alternative certificate subject name matches target' FROM whisperer.webhook_events
	WHERE event_type = 'wrong_name' AND retry_count = 1 AND response_http_status IS NULL});
pass('but not under another name');
is($receiver->count(path => '/wrong_name'), 0, '... and nothing was sent to it');

unlike($node->log_since(0), qr/\b(ERROR|FATAL|PANIC):/, 'no error in the log');
$receiver->release;
$node->stop;
done_testing();
