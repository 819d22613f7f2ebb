# Authentication by token (parity row 15): config.auth of auth_type token posts a form to a token server, and sends the token
# that it gets. Basic (parity row 14) beside it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use MIME::Base64 qw(encode_base64);
use Test::More;

use Whisperer::Node;
use Whisperer::Receiver;

my $node = Whisperer::Node->started('main');
my $receiver = Whisperer::Receiver->new;

sub sql { return $node->safe_psql('postgres', $_[0]) }

# A subscription with an event type of its own whose tokens come from /login/TYPE.
sub subscribe
{
	my ($type, $auth, $more) = @_;
	my $url = $receiver->url("/in/$type");
	my $login = $receiver->url("/login/$type");
	sql("SELECT whisperer.register_event_type('$type')");
	return sql(qq{SELECT whisperer.subscribe('$type', '$url', config => '{"auth": {"auth_type": "token", "url": "$login",
		"username": "user & co", "password": "pa=ss wörd"$auth}$more}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}')});
}

sub raise { sql("SELECT whisperer.deliver_event('{}', '$_[0]')") for 1 .. ($_[1] // 1) }
sub logins { return $receiver->requests(path => "/login/$_[0]") }
sub deliveries { return $receiver->requests(path => "/in/$_[0]") }
sub delivered
{
	my ($type, $count) = @_;
	$node->poll_until('postgres', "SELECT count(*) = $count FROM whisperer.webhook_events WHERE event_type = '$type' AND delivered");
}
sub failed
{
	my ($type) = @_;
	$node->poll_until('postgres', "SELECT count(*) = 1 FROM whisperer.failed WHERE event_type = '$type'");
	return sql("SELECT response_http_status, error FROM whisperer.failed WHERE event_type = '$type'");
}
sub token { return {body => qq({"key": "$_[0]"}), times => $_[1] // 1} }

# ---- The defaults; one token for all.
subscribe('plain', '', '');
$receiver->answer('/login/plain', token('one'), token('two'));
raise('plain', 5);
delivered('plain', 5);
my @logins = logins('plain');
is(scalar @logins, 1, 'one token request');
is($logins[0]{method}, 'POST', 'is a POST');
is($logins[0]{header}{'content-type'}, 'application/x-www-form-urlencoded', 'of a form');
is($logins[0]{body}, 'username=user+%26+co&password=pa%3Dss+w%C3%B6rd', 'with user name and password');
ok(!exists $logins[0]{header}{$_}, "without $_") for qw(webhook-id webhook-signature x-whisperer-event authorization expect);
is(join(' ', map { $_->{header}{authorization} } deliveries('plain')), join(' ', ('Token one') x 5), 'its token is sent with all');

# ---- A 401 ends a token: that attempt has failed, the next one has a new token.
$receiver->answer('/in/plain', {status => 401}, {status => 200});
raise('plain');
delivered('plain', 6);
is(scalar logins('plain'), 2, 'a second token after a 401');
my @plain = deliveries('plain');
is($plain[-2]{header}{authorization}, 'Token one', 'the old one was refused');
is($plain[-1]{header}{authorization}, 'Token two', 'the new one is sent');
is($plain[-1]{id}, $plain[-2]{id}, 'with the same delivery');
is(sql(q{SELECT max(retry_count) FROM whisperer.webhook_events WHERE event_type = 'plain'}), 2, 'at its second attempt');

# ---- Names of fields, key and format; an Authorization header of the user's gives way.
subscribe('named', ', "username_field": "login", "password_field": "secret", "token_key": "access_token",
	"header_format": "Bearer {}, v=1"', '');
sql(q{SELECT whisperer.update_subscription(id, '{"additional_headers": {"authorization": "mine"}}')
	FROM whisperer.subscriptions WHERE event_type = 'named'});
$receiver->answer('/login/named', {status => 201, body => '{"expires": 5, "access_token": "t\u006fken"}'});
raise('named');
delivered('named', 1);
is((logins('named'))[0]{body}, 'login=user+%26+co&secret=pa%3Dss+w%C3%B6rd', 'fields by their names');
is((deliveries('named'))[0]{header}{authorization}, 'Bearer token, v=1', 'header by its format');

# ---- What a token server may do wrong: a failed attempt that says so.
my $origin = $receiver->url('') =~ s{/$}{}r;
my %wrong = (
	refused => [{status => 403, body => '{"key": "secret-token"}'}, 'answered 403'],
	redirect => [{status => 302, headers => [['Location', $receiver->url('/login/plain')]]}, 'answered 302'],
	html => [{body => '<html>secret-token</html>'}, 'answered no JSON object'],
	nokey => [{body => '{"token": "secret-token"}'},
		'answered a JSON object without the string that config.auth.token_key names'],
	number => [{body => '{"key": 5}'}, 'answered a JSON object without the string that config.auth.token_key names'],
	newline => [{body => '{"key": "secret-token\r\nX-Evil: 1"}'},
		'answered a token that is empty, not visible ASCII, or longer than 8192 bytes'],
	huge => [{body_size => 100_000}, 'answered with more than 65536 bytes'],
);
for my $type (sort keys %wrong)
{
	my ($step, $expected) = @{ $wrong{$type} };
	subscribe($type, '', ', "max_attempts": 1');
	$receiver->answer("/login/$type", $step);
	raise($type);
	is(failed($type), "|token request to $origin $expected", "$type: the error");
	is(scalar deliveries($type), 0, "$type: nothing is sent");
}
is(sql(q{SELECT count(*) FROM whisperer.webhook_events WHERE response_content ~ 'secret' OR error ~ 'secret'}), 0,
	'what a token server answers is not kept');

# It counts as an attempt; the next one asks again.
subscribe('later', '', ', "max_attempts": 3');
$receiver->answer('/login/later', {status => 500, times => 2}, token('late'));
raise('later');
delivered('later', 1);
is(sql(q{SELECT retry_count, cardinality(request_datetimes) FROM whisperer.webhook_events WHERE event_type = 'later'}), '3|3',
	'the third attempt got a token');
is((deliveries('later'))[0]{header}{authorization}, 'Token late', 'and was sent with it');

# ---- The rules of section 7: addresses and time-outs.
sql(q{SELECT whisperer.register_event_type('inside');
	SELECT whisperer.subscribe('inside', 'http://127.0.0.1:9/', config => '{"max_attempts": 1, "auth": {"auth_type": "token",
		"url": "http://169.254.169.254/latest/", "username": "u", "password": "p"}}')});
raise('inside');
like(failed('inside'), qr{^\|token request to http://169\.254\.169\.254 failed: .*whisperer\.allowed_networks}, 'address policy');

subscribe('hangs', '', ', "max_attempts": 1, "request_timeout": [60, 0.5]');
$receiver->answer('/login/hangs', {hang => 'request'});
raise('hangs');
like(failed('hangs'), qr{^\|token request to \Q$origin\E failed: no response within 0\.5 s}, 'time-out');
$receiver->release('/login/hangs');

# ---- While one asks, its others wait, and nobody else does.
subscribe('slow', '', ', "request_timeout": 600');
$receiver->answer('/login/slow', {hang => 'request', body => '{"key": "slow"}'});
raise('slow', 10);
$receiver->await('/login/slow', 1);
raise('plain', 3);
delivered('plain', 9);
is(scalar logins('slow'), 1, 'one token request at a time');
is(scalar deliveries('slow'), 0, 'its deliveries wait');
# A cancelled one that waits for the token is not sent.
my $victim = sql(q{SELECT uuid FROM whisperer.pending WHERE event_type = 'slow' AND uuid NOT IN
	(SELECT uuid FROM whisperer.in_flight_list()) LIMIT 1});
sql("SELECT whisperer.cancel('$victim')");
$receiver->release('/login/slow');
delivered('slow', 9);
is(scalar deliveries('slow'), 9, 'they go once it is there');
is(scalar(grep { $_->{id} eq $victim } deliveries('slow')), 0, 'but what was cancelled');

# ---- Changed meanwhile: the old token is not used any more.
my $login = $receiver->url('/login/other');
$receiver->answer('/login/other', token('other'));
sql(qq{SELECT whisperer.update_subscription(id, '{"config": {"auth": {"auth_type": "token", "url": "$login", "username": "u",
	"password": "p"}}}') FROM whisperer.subscriptions WHERE event_type = 'plain'});
raise('plain');
delivered('plain', 10);
is((deliveries('plain'))[-1]{header}{authorization}, 'Token other', 'a new source, a new token');

# ---- Synchronous delivery: the same, in the session's own process, which keeps its token.
$receiver->answer('/login/other', token('session'));
my $session = $node->background_psql('postgres');
$session->query_safe(q{SELECT whisperer.deliver_event('{}', 'plain', _async => false)}) for 1 .. 2;
is((deliveries('plain'))[-1]{header}{authorization}, 'Token session', 'a token of the session\'s own');
is(scalar $receiver->requests(path => '/login/other'), 2, 'asked for once');
$session->quit;
$receiver->answer('/login/other', {status => 403});
is( sql(q{BEGIN; SELECT cardinality(whisperer.deliver_event('{}', 'plain', _async => false));
	SELECT state, retry_count, error FROM whisperer.webhook_events WHERE event_type = 'plain' AND NOT delivered; ROLLBACK}),
	"1\npending|1|token request to $origin answered 403", 'and its failure is the delivery\'s');

# ---- Basic authentication, which wins over a header given (row 14).
my $url = $receiver->url('/in/basic');
sql(qq{SELECT whisperer.register_event_type('basic');
	SELECT whisperer.subscribe('basic', '$url', additional_headers => '{"Authorization": "mine"}',
		config => '{"auth": {"auth_type": "basic", "username": "Aladdin", "password": "öpen sesame"}}');
	SELECT whisperer.deliver_event('{}', 'basic');
	SELECT whisperer.deliver_event('{}', 'basic', _async => false)});
my @basic = $receiver->await('/in/basic', 2);
is($_->{header}{authorization}, 'Basic ' . encode_base64("Aladdin:\xc3\xb6pen sesame", ''), 'basic') for @basic;

unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/secret-token/, 'no token is in the log');
$node->stop;
done_testing();
