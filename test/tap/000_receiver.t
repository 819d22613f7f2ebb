# The receiver itself: what other tests rely on, seen by a client that is not ours (curl).
use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Receiver;

my $directory = $PostgreSQL::Test::Utils::tmp_check;
my ($certificate, $key) = Whisperer::Receiver::make_certificate($directory, 'DNS:localhost');
my $receiver = Whisperer::Receiver->new(
	listen => [
		{ name => 'main' },
		{ name => 'tls', tls => { cert => $certificate, key => $key } },
		{ name => 'resets', accept => 'reset' },
	]);

# curl's exit code and what it printed.
sub curl
{
	my (@arguments) = @_;
	my ($output, $errors) = ('', '');
	IPC::Run::run([ 'curl', '-sS', '--noproxy', '*', '-m', $Whisperer::Receiver::timeout, @arguments ], '>', \$output, '2>', \$errors);
	return ($? >> 8, $output);
}
my $status_of = sub { (curl('-o', '/dev/null', '-w', '%{http_code}', '-d', 'x', @_))[1] };

# Steps, one after the other and for each id by itself.
is($status_of->($receiver->url('/free')), '200', 'without a rule: 200');
$receiver->answer('/steps', { status => 500, times => 2 }, { status => 204 });
is(join(' ', map { $status_of->($receiver->url('/steps')) } 1 .. 4), '500 500 204 204', 'steps; the last repeats');
$receiver->behave(path => '/each', per => 'webhook-id', steps => [ { status => 503 }, { status => 201 } ]);
is(join(' ', map { $status_of->($receiver->url('/each'), '-H', "webhook-id: $_") } qw(a b a b)), '503 503 201 201',
	'steps for each value of a header');

# What arrived is kept byte for byte.
my $bytes = join '', map { chr } 0 .. 255;
unlink "$directory/body";
append_to_file("$directory/body", $bytes);
curl('-H', 'X-Case: Kept ', '-H', 'webhook-id: 7', '--data-binary', "\@$directory/body", $receiver->url('/bytes') . '?q=1');
my ($request) = $receiver->await('/bytes', 1);
is($request->{body}, $bytes, 'the body, whatever its bytes');
is($request->{target}, '/bytes?q=1', 'the target');
is($request->{id}, '7', 'the id');
is((grep { $_->[0] eq 'X-Case' } @{ $request->{headers} })[0][1], 'Kept', 'headers as spelt');
like($request->{head}, qr{\APOST /bytes\?q=1 HTTP/1\.1\r\n.*\r\n\r\n\z}s, 'the head as it came');
curl('-H', 'Transfer-Encoding: chunked', '--data-binary', "\@$directory/body", $receiver->url('/chunks'));
is(($receiver->await('/chunks', 1))[0]{body}, $bytes, 'a chunked body');

# Answers of every shape.
$receiver->answer('/chunked', { chunked => 1, body => 'in chunks' });
is((curl($receiver->url('/chunked')))[1], 'in chunks', 'chunked');
$receiver->answer('/trickle', { body => 'drop by drop', trickle => { bytes => 1, interval => 2 } });
is((curl($receiver->url('/trickle')))[1], 'drop by drop', 'trickled');
$receiver->answer('/raw', { raw => 'not HTTP at all' });
is((curl('--http0.9', $receiver->url('/raw')))[1], 'not HTTP at all', 'raw bytes');
$receiver->answer('/short', { body => 'short', content_length => 100, close => 1 });
is((curl($receiver->url('/short')))[0], 18, 'less than was promised: curl calls it a partial file');
$receiver->answer('/delay', { body => 'late', delay => { headers => 20, body => 20, end => 20 } });
is((curl($receiver->url('/delay')))[1], 'late', 'delayed');

# Resets and closes, at each stage.
for my $stage (qw(head request headers body))
{
	$receiver->answer("/cut_$stage", { cut => $stage, body => 'cut in the middle' });
	is((curl('-d', 'x', $receiver->url("/cut_$stage")))[0], 56, "reset after $stage");
}
$receiver->answer('/closes', { cut => 'request', how => 'close' });
is((curl($receiver->url('/closes')))[0], 52, 'closed without an answer');
like((curl($receiver->url('/', port => 'resets')))[0], qr{^(7|55|56)$}, 'reset at once, while connecting or after');
ok(!($receiver->requests(path => "/cut_head"))[0]{complete}, "a request whose body was not read says so");

# Hanging, until released.
$receiver->answer('/hangs', { hang => 'body', body => 'at last' });
my $output = '';
my $client = IPC::Run::start([ 'curl', '-sS', '--noproxy', '*', $receiver->url('/hangs') ], '>', \$output);
$receiver->await('/hangs', 1);
is($receiver->statistics->{active}{'/hangs'}, 1, 'it hangs');
$receiver->release('/hangs');
$client->finish;
is($output, 'at last', 'and goes on when released');

# The same, and not reading: more than the sockets' buffers hold is not sent.
unlink "$directory/large";
append_to_file("$directory/large", 'x' x 8_000_000);
$receiver->answer('/unread', { hang => 'head', body => 'at last' });
my @large = ('-H', 'Expect:', '--data-binary', "\@$directory/large");
my ($exit, $sent) = curl('-m', '1', '-o', '/dev/null', '-w', '%{size_upload}', @large, $receiver->url('/unread'));
is($exit, 28, 'a body that is not read: no answer');
cmp_ok($sent, '<', 8_000_000, '... and not all of it is taken');
# On a path of its own: the receiver may hear of the one before only now.
$receiver->answer('/released', { hang => 'head', body => 'at last' });
$output = '';
$client = IPC::Run::start([ 'curl', '-sS', '--noproxy', '*', @large, $receiver->url('/released') ], '>', \$output);
$receiver->await('/released', 1);
$receiver->release('/released');
$client->finish;
is($output, 'at last', 'it is read, and answered, when released');

# TLS, and ports that come and go.
is((curl('--cacert', $certificate, '-d', 'x', $receiver->url('/tls', port => 'tls', scheme => 'https', host => 'localhost')))[0],
	0, 'TLS');
is(($receiver->await('/tls', 1))[0]{port}, 'tls', 'the port is told');
$receiver->unlisten('tls');
is((curl($receiver->url('/', port => 'tls')))[0], 7, 'a closed port refuses');
$receiver->listen(name => 'tls', port => $receiver->port('tls'));
is($status_of->($receiver->url('/', port => 'tls')), '200', 'and can be opened again');

$receiver->refusing_port('held');
is((curl($receiver->url('/', port => 'held')))[0], 7, 'a port that only refuses');
$receiver->listen(name => 'held', port => $receiver->port('held'));
is($status_of->($receiver->url('/', port => 'held')), '200', 'can be opened');
$receiver->unlisten('held');
is((curl($receiver->url('/', port => 'held')))[0], 7, 'and refuses again');

# Waiting for what does not come says what came.
ok(!eval { $receiver->await('/bytes', 2, timeout => 0.1) }, 'too few: dies');
like($@, qr{waited 0\.1 s for 2 requests to /bytes, and got 1}, 'and says so');
ok(!eval { $receiver->answer('/x', { statsu => 200 }) }, 'a key that it does not know');
like($@, qr/unknown key of a step: statsu/, 'is an error');

# It ends with its owner's end of the pipe.
my $pid = $receiver->{pid};
$receiver->stop;
is(kill(0, $pid), 0, 'it ends when told to');

done_testing();
