# Responses and bodies of many megabytes.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

use Whisperer::Node;
use Whisperer::Receiver;

my $responses = 17;
my $node = Whisperer::Node->started('main',
	settings => "whisperer.max_response_size = 16MB\nwhisperer.max_payload_size = 64MB\nautovacuum = off");
my $receiver = Whisperer::Receiver->new;
my $url = $receiver->url('/in');
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', '$url?' || n, config => '{"request_timeout": 60}') FROM generate_series(1, $responses) n});

# As large as they may be, and no text: each byte takes four when it is recorded. Together they are more than fits into one
# value of PostgreSQL's. At first nothing can be recorded, so that they gather.
$node->safe_psql('postgres', 'CREATE INDEX refuse ON whisperer.history ((1 / (attempts - 1)))'); # no first attempt gets in
$receiver->answer('/in', { status => 200, body_base64 => encode_base64("\xff" x (16 * 1024 * 1024), '') });
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{"n": 1}', 't')});
$receiver->await('/in', $responses, brief => 1);
$node->poll_until('postgres',
	q{SELECT in_flight, state FROM whisperer.workers WHERE kind = 'delivery'}, '0|waiting after an error');
$node->safe_psql('postgres', 'DROP INDEX whisperer.refuse');
$node->wait_settled;
is($node->safe_psql('postgres',
		q{SELECT count(*) FROM whisperer.webhook_events WHERE delivered AND octet_length(response_content) > 64 * 1024 * 1024}),
	$responses, 'large responses are recorded');
my $worker = $node->safe_psql('postgres', q{SELECT pid FROM whisperer.workers WHERE kind = 'delivery'});
my ($peak) = slurp_file("/proc/$worker/status") =~ /^VmHWM:\s+(\d+) kB/m;
cmp_ok($peak, '<', 850 * 1024, 'and take memory once, not once more for each of a batch');

# A large body.
my $other = $receiver->url('/large');
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('large');
	SELECT whisperer.subscribe('large', '$other', config => '{"request_timeout": 60}')});
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event(jsonb_build_object('a', repeat('x', 8 * 1024 * 1024)), 'large')});
$node->wait_settled;
is($node->safe_psql('postgres', q{SELECT delivered FROM whisperer.webhook_events WHERE event_type = 'large'}),
	't', 'a body of 8 MB is delivered');

$node->stop;
done_testing();
