# Over TLS a receiver that speaks HTTP/2 gets it, many requests over one connection; headers and body are the same.
use strict;
use warnings;

use IPC::Run ();
use JSON::XS ();
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $directory = PostgreSQL::Test::Utils::tempdir;
my ($certificate, $key) = Whisperer::Receiver::make_certificate($directory, 'DNS:localhost');
chmod 0755, $directory;

# Node's own HTTP/2 server: says its port, and writes each request to a file, on a line of its own; ends with this process.
my $program = <<'NODE';
import http2 from 'node:http2';
import fs from 'node:fs';
const [log, ...files] = process.argv.slice(-3);
const [cert, key] = files.map((name) => fs.readFileSync(name));
let sessions = 0;
const server = http2.createSecureServer({ cert, key });
server.on('session', (session) => { session.number = ++sessions; });
server.on('stream', (stream, headers) => {
    const parts = [];
    stream.on('data', (part) => parts.push(part));
    stream.on('end', () => {
        const retry = headers[':path'] === '/busy';
        stream.respond(retry ? { ':status': 503, 'retry-after': '600' } : { ':status': 200 });
        stream.end('over h2');
        const body = Buffer.concat(parts).toString('base64');
        fs.appendFileSync(log, JSON.stringify({ session: stream.session.number, headers, body }) + '\n');
    });
});
process.stdin.on('end', () => process.exit(0)).resume();
server.listen(0, 'localhost', () => fs.writeSync(1, `${server.address().port}\n`));
NODE
my ($in, $out, $log) = ('', '', "$directory/requests");
my $run = IPC::Run::start([ 'node', '--input-type=module', '-e', $program, '--', $log, $certificate, $key ], '<', \$in, '>', \$out,
	my $timer = IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
$run->pump until $out =~ s/^(\d+)\n//;
my $port = $1;

my $node = Whisperer::Node->started('main', settings => "whisperer.ca_file = '$certificate'");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql(qq{SELECT whisperer.register_event_type(t) FROM unnest('{one,busy}'::text[]) t;
	SELECT whisperer.subscribe('one', 'https://localhost:$port/in?q=1', 'secret', additional_headers => '{"X-Own": "mine"}', config => '{"auth": {"auth_type": "bearer", "token": "t0ken"}}');
	SELECT whisperer.subscribe('busy', 'https://localhost:$port/busy')});
my $id = sql(q{SELECT unnest(whisperer.deliver_event('{"n": 0}', 'one'))});
$node->wait_settled;
sql(q{SELECT count(whisperer.deliver_event(jsonb_build_object('n', n), 'one')) FROM generate_series(1, 200) n});
$node->wait_settled;
my @requests = map { JSON::XS->new->decode($_) } split /\n/, slurp_file($log);
is(scalar @requests, 201, 'each delivery once');
my $headers = $requests[0]{headers};
is(join('|', map { $headers->{$_} } qw(:method :path :scheme content-type x-whisperer-event webhook-id x-own authorization)),
	"POST|/in?q=1|https|application/json|one|$id|mine|Bearer t0ken", 'the headers');
my $body = decode_base64($requests[0]{body});
is($headers->{'content-length'}, length $body, 'Content-Length');
is($body, qq({"event": {"type": "one", "uuid": "@{[$id =~ tr/-//dr]}"}, "payload": {"n": 0}}), 'the body');
like($headers->{'webhook-signature'}, qr{^v1,[A-Za-z0-9+/]{43}=$}, 'signed');
ok(!exists $headers->{expect} && !exists $headers->{'accept-encoding'}, 'and nothing else');
my %sessions = map { $_->{session} => 1 } @requests;
cmp_ok(scalar keys %sessions, '<', 20, 'over few connections');
is(sql(q{SELECT DISTINCT concat_ws('|', state, retry_count, response_http_status, response_content) FROM whisperer.webhook_events}), 'delivered|1|200|over h2', 'recorded');

sql(q{SELECT whisperer.deliver_event('{}', 'busy')});
$node->poll_until('postgres', q{SELECT concat_ws('|', retry_count, response_http_status, next_attempt_at > now() + interval '9 min')
	FROM whisperer.pending WHERE event_type = 'busy'}, '1|503|t');
pass('Retry-After in lower case, as HTTP/2 has it');
$node->stop;
$run->finish;
done_testing();
