# whisperer.proxy: requests go through it by CONNECT, to the address that was judged here; what it answers is its own and not
# the receiver's; it gets nothing that is for the receiver; a change closes connections made the old way. (That no special
# address is reached through it: 116_every_address.t.)
use strict;
use warnings;

use File::Spec;
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $directory = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
my ($certificate, $key) = Whisperer::Receiver::make_certificate($directory, 'DNS:localhost');
chmod 0755, $directory;
my $tls = { cert => $certificate, key => $key };
my $receiver = Whisperer::Receiver->new(listen => [
	{ name => 'main' }, { name => 'secure', tls => $tls }, { name => 'proxy' }, { name => 'other' } ]);
$receiver->refusing_port('down');
sub proxy_url { my ($port, $host) = @_; return $receiver->url('', port => $port, host => $host // '127.0.0.1'); }
my $node = Whisperer::Node->started('main', settings => "whisperer.ca_file = '$certificate'\nwhisperer.proxy = '@{[proxy_url('proxy')]}'");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub set { my ($name, $value) = @_; sql("ALTER SYSTEM SET whisperer.$name = '$value'"); sql('SELECT pg_reload_conf()'); return; }
$receiver->behave(path => '*', port => $_, steps => [ { tunnel => \1 } ]) for qw(proxy other);

my %types;
sub attempt
{
	my ($type, $url, %more) = @_;
	my $config = $more{config} // '{"request_timeout": 600}';
	sql(qq{SELECT whisperer.register_event_type('$type'); SELECT whisperer.subscribe('$type', '$url', 'secret', additional_headers => '{"X-Mine": "yes"}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 1000}}', config => '$config')}) unless $types{$type}++;
	my $id = sql("SELECT unnest(whisperer.deliver_event('{}', '$type', _async => @{[$more{sync} ? 'false' : 'true']}))");
	$node->poll_until('postgres', "SELECT retry_count FROM whisperer.webhook_events WHERE uuid = '$id'", 1);
	return sql("SELECT concat_ws('|', state, coalesce(response_http_status::text, 'none'), coalesce(response_content, 'none'), error) FROM whisperer.webhook_events WHERE uuid = '$id'");
}
sub connects { return $receiver->requests(port => $_[0] // 'proxy'); }

# ---- Through it: by address, by name, over TLS, from a session, for a token.
my ($main, $secure) = map { $receiver->port($_) } qw(main secure);
$receiver->answer('/fails', { status => 500, body => 'sorry' });
is(attempt('plain', $receiver->url('/plain')), 'delivered|200|', 'through the proxy');
my ($connect) = connects();
is("$connect->{method} $connect->{target} $connect->{header}{host}", "CONNECT 127.0.0.1:$main 127.0.0.1:$main", 'by CONNECT, also without TLS');
is(join(' ', sort grep { !/^(?:host|proxy-connection|user-agent)$/ } keys %{ $connect->{header} }), '', '... and without headers that are for the receiver');
is($receiver->count(path => '/plain', port => 'main'), 1, 'it arrived');
my ($plain) = $receiver->requests(path => '/plain');
ok(!exists $plain->{header}{'proxy-connection'}, '... without headers that are for the proxy');
is("$plain->{target} $plain->{header}{host} $plain->{header}{'x-mine'}", "/plain 127.0.0.1:$main yes", '... as without one');
attempt('plain') for 1 .. 3;
is(scalar connects(), 1, 'a tunnel is kept for the requests that follow');
is(attempt('fails', $receiver->url('/fails')), 'pending|500|sorry|the receiver answered with status 500', "a receiver's answer is the receiver's");
like(attempt('named', $receiver->url('/named', host => 'localhost')), qr/^delivered\|200\|/, 'by name');
is((connects())[-1]{target} =~ s/^(?:127\.0\.0\.1|\[::1\]):$main$/judged/r, 'judged', '... the proxy is given the address');
is(attempt('tls', $receiver->url('/tls', port => 'secure', scheme => 'https', host => 'localhost')), 'delivered|200|', 'TLS goes through the tunnel, end to end');
like(attempt('tls_name', $receiver->url('/tls_name', port => 'secure', scheme => 'https')), qr/^pending\|none\|none\|SSL: no alternative certificate subject name/, '... and the certificate is judged here');
is(attempt('sync', $receiver->url('/sync'), sync => 1), 'delivered|200|', 'from a session');
$receiver->answer('/login', { body => '{"key": "abc"}' });
is(attempt('token', $receiver->url('/token'), config => qq({"auth": {"auth_type": "token", "url": "@{[$receiver->url('/login')]}", "username": "u", "password": "p"}})),
	'delivered|200|', 'a token is fetched');
is(scalar(grep { $_->{method} ne 'CONNECT' } connects()), 0, 'nothing else was asked of the proxy');
is(scalar(grep { $_->{port} ne 'proxy' && $_->{header}{host} !~ /:(?:$main|$secure)$/ } $receiver->requests), 0, 'Host is always the receiver');

# ---- What it answers instead: no response of the receiver's, and a failure that says whose.
my $target = 9000;
for my $case (
	[ forbidden => { status => 403, body => 'secret of the proxy' }, qr/^proxy: .*403/ ], [ wants_login => { status => 407, headers => [ [ 'Proxy-Authenticate', 'Basic realm="x"' ] ] }, qr/^proxy: .*407/ ],
	[ bad_gateway => { status => 502 }, qr/^proxy: .*502/ ], [ gone => { status => 410 }, qr/^proxy: .*410/ ], [ redirects => { status => 302, headers => [ [ 'Location', $receiver->url('/away') ] ] }, qr/^proxy: .*302/ ],
	[ busy => { status => 503, headers => [ [ 'Retry-After', '5000' ] ] }, qr/^proxy: .*503/ ],
	[ nonsense => { raw => "hello\n" x 10 }, qr/^proxy: / ], [ floods => { raw => "HTTP/1.1 200 OK\r\n" . "X-Flood: @{['x' x 1000]}\r\n" x 2000 . "\r\n" }, qr/^(?:proxy: |the response's headers)/ ],
	[ closes => { cut => 'request', how => 'close' }, qr/^proxy: / ], [ resets => { cut => 'request' }, qr/^proxy: / ],
	[ hangs => { hang => 'request' }, qr/^no connection within 2 s/ ], [ closes_tunnel => { raw => "HTTP/1.1 200 OK\r\n\r\n" }, qr/^(?:proxy|the response ended before it was whole): / ])
{
	my ($name, $step, $error) = @$case;
	$target++;
	$receiver->behave(path => "127.0.0.1:$target", port => 'proxy', steps => [$step]);
	my %patience = $step->{hang} ? (config => '{"request_timeout": 2}') : ();
	my ($state, $status, $content, $said) = split /\|/, attempt($name, "http://127.0.0.1:$target/$name", %patience), 4;
	is("$state $status $content", 'pending none none', "a proxy: $name: no response, tried again");
	like($said, $error, '... and the error says so');
}
is(sql('SELECT count(*) FROM whisperer.subscriptions WHERE NOT is_active'), 0, '410 from a proxy deactivates nobody');
is(sql('SELECT count(*) FROM whisperer.subscription_health WHERE paused_until IS NOT NULL'), 0, 'Retry-After from a proxy pauses nobody');
is($receiver->count(path => '/away'), 0, 'a redirect of its is not followed');

# ---- The target is judged, the proxy's own address is the operator's business.
set(allowed_networks => '127.0.0.2/32');
like(attempt('plain'), qr/^pending\|none\|none\|address 127\.0\.0\.1 \(loopback\) is not allowed; see whisperer\.allowed_networks$/, 'the target is judged');
set(allowed_networks => '127.0.0.0/8, ::1/128');

# ---- A change of the setting: what is kept alive was made the old way, and is closed.
my $before = $receiver->count(path => '/plain');
set(proxy => proxy_url('other', 'localhost'));
is(attempt('plain'), 'delivered|200|', 'another proxy, by name');
is(scalar(connects('other')), 1, '... is used from then on');
my $used = scalar connects();
set(proxy => proxy_url('down'));
like(attempt('plain'), qr/^pending\|none\|none\|proxy: Failed to connect/, 'a proxy that is down: a failure, and nothing goes around it');
set(proxy => 'http://no-such-proxy.invalid:3128');
like(attempt('plain'), qr/^pending\|none\|none\|name lookup of "no-such-proxy\.invalid" failed/, 'a proxy that has no address');
is($receiver->count(path => '/plain'), $before + 1, '... neither');
set(proxy => '');
is(attempt('plain'), 'delivered|200|', 'none');
is(scalar(connects()) + scalar(connects('other')), $used + 1, '... asks none');

for my $bad ('127.0.0.1:1', 'https://127.0.0.1:1', 'socks5://127.0.0.1:1', 'http://127.0.0.1', 'http://u:p@127.0.0.1:1', 'http://127.0.0.1:1/x', "http://127.0.0.1:1\n")
{
	my (undef, undef, $error) = $node->psql('postgres', "ALTER SYSTEM SET whisperer.proxy = '$bad'");
	like($error, qr/invalid value for parameter "whisperer\.proxy"|parameter value for ALTER SYSTEM must not contain a newline/, 'refused: ' . ($bad =~ s/\n/\\n/r));
}
$receiver->release;
$node->stop;
done_testing();
