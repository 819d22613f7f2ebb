# HTTP/2 (parity row 42): a receiver that speaks it over TLS gets everything over one connection, and the same bytes as
# one that does not. The receiver is Node's own.
use strict;
use warnings;

use IPC::Run ();
use JSON::XS ();
use PostgreSQL::Test::Utils;
use File::Spec;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $directory = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
my ($certificate, $key) = Whisperer::Receiver::make_certificate($directory, 'DNS:localhost');
chmod 0755, $directory;

# Says its port, and then each request in one line; ends with its standard input. The path /fails answers 503 once for each id.
append_to_file("$directory/http2.mjs", <<'JS');
import { readFileSync } from 'node:fs';
import { createSecureServer } from 'node:http2';
let sessions = 0;
const failed = new Set();
const server = createSecureServer({ cert: readFileSync(process.argv[2]), key: readFileSync(process.argv[3]), allowHTTP1: false });
server.on('session', (session) => { session.number = ++sessions; });
server.on('stream', (stream, headers) => {
	const parts = [];
	stream.on('data', (part) => parts.push(part));
	stream.on('end', () => {
		const id = headers['webhook-id'];
		const status = headers[':path'] === '/fails' && !failed.has(id) ? 503 : 200;
		failed.add(id);
		console.log(JSON.stringify({ session: stream.session.number, headers, body: Buffer.concat(parts).toString() }));
		stream.respond({ ':status': status });
		stream.end('got it');
	});
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume().on('end', () => process.exit());
JS
my ($in, $out) = ('', '');
my $timer = IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default);
my $server = IPC::Run::start([ 'node', "$directory/http2.mjs", $certificate, $key ], '<', \$in, '>', \$out, $timer);
$server->pump until $out =~ s/^(\d+)\n//;
my $base = "https://localhost:$1";
my $json = JSON::XS->new;

my $node = Whisperer::Node->started('main', settings => "whisperer.ca_file = '$certificate'");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub requests { my ($count) = @_; $server->pump until ($out =~ tr/\n//) >= $count; return map { $json->decode($_) } split /\n/, $out; }

sql(qq{
	SELECT whisperer.register_event_type('package-created');
	SELECT whisperer.subscribe('package-created', '$base/in?q=1', 'secret', additional_headers => '{"X-Shop": "one"}');
	SELECT whisperer.register_event_type('fails');
	SELECT whisperer.subscribe('fails', '$base/fails', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}')});
my $id = sql(q{SELECT unnest(whisperer.deliver_event('{"id": 1}'::jsonb, 'package-created'))});
$node->wait_settled;
sql(q{SELECT whisperer.deliver_event(jsonb_build_object('id', n), 'package-created') FROM generate_series(2, 50) n});
sql(q{SELECT whisperer.deliver_event('{}', 'fails')});
$node->wait_settled;
is(sql(q{SELECT state, retry_count, response_http_status, response_content, count(*) FROM whisperer.webhook_events GROUP BY 1, 2, 3, 4 ORDER BY 2}),
	"delivered|1|200|got it|50\ndelivered|2|200|got it|1", 'delivered over HTTP/2; what failed was tried again');

my @requests = requests(52);
is(scalar @requests, 52, 'each arrived once');
my %sessions = map { $_->{session} => 1 } @requests;
is(scalar keys %sessions, 1, 'parity row 42: HTTP/2, over one connection');
my $first = $requests[0];
my ($header, $hex) = ($first->{headers}, $id =~ tr/-//dr);
is($first->{body}, qq({"event": {"type": "package-created", "uuid": "$hex"}, "payload": {"id": 1}}), 'the body');
is(join(' ', map { $header->{$_} } ':method', ':path', ':scheme', 'webhook-id', 'x-whisperer-event', 'x-shop', 'content-type'),
	"POST /in?q=1 https $id package-created one application/json", 'the headers');
like($header->{'x-whisperer-signature'}, qr/^sha256=[0-9a-f]{64}$/, 'signed');
is(join(' ', sort grep { !/^:/ } keys %$header),
	'content-length content-type user-agent webhook-id webhook-signature webhook-timestamp x-shop x-whisperer-event x-whisperer-signature', 'and no other headers');

# The same in a session's own process.
sql(q{SELECT whisperer.deliver_event('{"id": 51}'::jsonb, 'package-created', _async => false)});
is(sql(q{SELECT count(*) FROM whisperer.webhook_events WHERE delivered}), '52', 'a synchronous delivery over HTTP/2');

$in = undef;
$server->kill_kill;
$node->stop;
done_testing();
