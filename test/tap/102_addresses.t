# Where requests may go: by default to no special address; whisperer.allowed_networks opens what is needed, and closes it
# again, also for connections that are kept alive.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "whisperer.allowed_networks = ''");
sub sql { return $node->safe_psql('postgres', $_[0]); }
is(sql(q{SELECT boot_val = '' AND setting = '' FROM pg_settings WHERE name = 'whisperer.allowed_networks'}), 't', 'the default allows no special address');

my $number = 0;
sub error_for
{
	my ($url) = @_;
	my $type = 'to-' . ++$number;
	sql(qq{SELECT whisperer.register_event_type('$type'); SELECT whisperer.subscribe('$type', '$url', config => '{"max_attempts": 1}');
		SELECT whisperer.deliver_event('{}', '$type')});
	$node->poll_until('postgres', "SELECT state FROM whisperer.webhook_events WHERE event_type = '$type'", 'failed');
	return sql("SELECT concat_ws('|', coalesce(response_http_status::text, 'none'), retry_count, error) FROM whisperer.webhook_events WHERE event_type = '$type'");
}

my $port = $receiver->port;
for my $case (
	[ "127.0.0.1:$port", '127.0.0.1' ], [ "localhost:$port", '(127.0.0.1|::1)' ], [ "127.1:$port", '127.0.0.1' ], [ "2130706433:$port", '127.0.0.1' ],
	[ "0x7f.1:$port", '127.0.0.1' ], [ "0.0.0.0:$port", '0.0.0.0' ], [ "[::1]:$port", '::1' ], [ "[::ffff:127.0.0.1]:$port", '::ffff:127.0.0.1' ],
	[ "[::127.0.0.1]:$port", '::127.0.0.1' ], [ "[64:ff9b::7f00:1]:$port", '64:ff9b::7f00:1' ], [ "[2002:7f00:1::]:$port", '2002:7f00:1::' ],
	[ '10.0.0.1', '10.0.0.1' ], [ '172.16.0.1', '172.16.0.1' ], [ '192.168.1.1', '192.168.1.1' ], [ '100.64.0.1', '100.64.0.1' ],
	[ '169.254.169.254', '169.254.169.254' ], [ '[fe80::1]', 'fe80::1' ], [ '[fc00::1]', 'fc00::1' ], [ '224.0.0.1', '224.0.0.1' ],
	[ '[ff02::1]', 'ff02::1' ], [ '240.0.0.1', '240.0.0.1' ], [ '255.255.255.255', '255.255.255.255' ], [ '198.18.0.1', '198.18.0.1' ],
	[ '192.0.2.1', '192.0.2.1' ], [ '[2001:db8::1]', '2001:db8::1' ])
{
	my ($host, $address) = @$case;
	my $pattern = $address =~ /^\(/ ? $address : quotemeta $address;
	for my $scheme (@$case == 2 && $host =~ /^127\.0|^169/ ? ('http', 'https') : ('http'))
	{
		like(error_for("$scheme://$host/secret"), qr/^none\|1\|address $pattern \([^()]+\) is not allowed; see whisperer\.allowed_networks$/, "$scheme://$host is refused");
	}
}
is($receiver->statistics->{connections}, 0, 'nobody was even called');

# ---- Opened: sent. Closed again: not over the connection that is still there.
sub allow
{
	my ($networks) = @_;
	sql("ALTER SYSTEM SET whisperer.allowed_networks = '$networks'");
	sql('SELECT pg_reload_conf()');
	return;
}
sql(qq{SELECT whisperer.register_event_type('mine'); SELECT whisperer.subscribe('mine', '@{[$receiver->url('/mine')]}',
	retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0.2}}', config => '{"max_attempts": 1000}')});
sql(q{SELECT whisperer.deliver_event('{}', 'mine')});
$node->poll_until('postgres', q{SELECT error ~ 'allowed_networks' FROM whisperer.pending WHERE event_type = 'mine'});
allow('10.0.0.0/8, 127.0.0.0/8');
$node->wait_settled;
is($receiver->count(path => '/mine'), 1, 'sent once the network is allowed');
$node->poll_until('postgres', q{SELECT last_status FROM whisperer.subscription_health WHERE event_type = 'mine'}, 200);
is($receiver->statistics->{open}{main}, 1, 'the connection is kept');

allow('10.0.0.0/8');
my $closed = 0;
for (1 .. 5000) { last if $closed = $receiver->statistics->{open}{main} == 0; select undef, undef, undef, 0.02; }
ok($closed, 'a change of the setting closes connections kept alive');
sql(q{SELECT whisperer.deliver_event('{}', 'mine')});
$node->poll_until('postgres', q{SELECT retry_count > 1 AND error ~ 'allowed_networks' FROM whisperer.pending WHERE event_type = 'mine'});
is($receiver->count(path => '/mine'), 1, 'and nothing is sent to it any more');

# ---- The address is judged, not the name: a redirect is not followed, a Host is not believed.
allow("127.0.0.1/32");
$node->wait_settled;
is($receiver->count(path => '/mine'), 2, 'opened again');
$receiver->answer('/away', { status => 302, headers => [ [ 'Location', $receiver->url('/away-from') ] ] });
like(error_for($receiver->url('/away')), qr/^302\|1\|/, 'a redirect is a failure');
is($receiver->count(path => '/away-from'), 0, '... and is not followed');
like(error_for("http://127.0.0.2:$port/"), qr/^none\|1\|address 127\.0\.0\.2 \(loopback\) is not allowed/, 'no more is opened than the setting says');

# ---- Nonsense is refused, and what held before still holds.
my ($code, undef, $error) = $node->psql('postgres', q{ALTER SYSTEM SET whisperer.allowed_networks = '127.0.0.1/99'});
like($error, qr/invalid value for parameter "whisperer.allowed_networks"/, 'nonsense is refused');
$node->append_conf('postgresql.auto.conf', "whisperer.allowed_networks = 'nonsense'\n");
my $log = $node->log_position;
sql('SELECT pg_reload_conf()');
$node->poll_until('postgres', q{SELECT error IS NOT NULL FROM pg_file_settings WHERE name = 'whisperer.allowed_networks' AND setting = 'nonsense'});
sql(q{SELECT whisperer.deliver_event('{}', 'mine')});
$node->wait_settled;
is($receiver->count(path => '/mine'), 3, 'in the file: what held before still holds');
$node->stop;
done_testing();
