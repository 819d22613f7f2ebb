# What goes over the wire: every byte of a request, the same body on each attempt, no Expect, authentication,
# the user's headers over ours; and changes of a subscription from the next attempt on.
use strict;
use warnings;

use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "whisperer.max_payload_size = '8MB'");
sub sql { return $node->safe_psql('postgres', $_[0]); }
my ($major) = sql('SHOW server_version_num') =~ /^(\d+)\d{4}$/;
my $agent = "whisperer/1.0 (PostgreSQL $major)";

# subscribe($type, further arguments) with the path of the same name, a retry at once.
sub subscribe
{
	my ($type, $arguments) = @_;
	sql(qq{SELECT whisperer.register_event_type('$type')});
	return sql(qq{SELECT whisperer.subscribe('$type', '@{[$receiver->url("/$type")]}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}'@{[$arguments ? ", $arguments" : '']})});
}
sub raise { my ($type, $instance) = @_; return sql("SELECT unnest(whisperer.deliver_event(@{[$instance // q('{}')]}, '$type'))"); }
sub header_names { return join ' ', sort map { $_->[0] } @{ $_[0]{headers} }; }

# ---- Byte by byte, without anything optional.
subscribe('plain');
my $id = raise('plain', q('{"b": 1.50, "a": {"z": null, "é": "\"\\\\\u0001/"}}'::jsonb));
my ($request) = $receiver->await('/plain', 1);
my $hex = $id =~ tr/-//dr;
my $body = qq({"event": {"type": "plain", "uuid": "$hex"}, "payload": {"a": {"z": null, "\xc3\xa9": "\\"\\\\\\u0001/"}, "b": 1.50}});
is($request->{body}, $body, 'the body, byte by byte');
my ($time) = $request->{header}{'webhook-timestamp'} =~ /^(\d{10})$/;
is($request->{version}, 'HTTP/1.1', 'the version');
is( join("\n", sort split /\r\n/, $request->{head}),
	join("\n", sort 'POST /plain HTTP/1.1', 'Host: 127.0.0.1:' . $receiver->port, 'Content-Type: application/json', "User-Agent: $agent",
		'X-Whisperer-Event: plain', "webhook-id: $id", "webhook-timestamp: $time", 'Content-Length: ' . length $body),
	'the head: these lines, and no others');

# ---- A type and a header that are not ASCII; the query and the path as given, no fragment.
sql(qq{SELECT whisperer.register_event_type('größe "x"');
	SELECT whisperer.subscribe('größe "x"', '@{[$receiver->url('/a%20b/c?d=%C3%A9&e#fragment')]}', additional_headers => '{"X-Name": "Zoë"}')});
raise('größe "x"');
$node->wait_settled;
my ($odd) = grep { $_->{header}{'x-whisperer-event'} ne 'plain' } $receiver->requests;
like($odd->{head}, qr/\r\nX-Whisperer-Event: gr\xc3\xb6\xc3\x9fe "x"\r\n/, 'X-Whisperer-Event in UTF-8');
like($odd->{head}, qr/\r\nX-Name: Zo\xc3\xab\r\n/, 'a header in UTF-8');
like($odd->{body}, qr/^\{"event": \{"type": "gr\xc3\xb6\xc3\x9fe \\"x\\"", /, 'the type in the body');
is($odd->{target}, '/a%20b/c?d=%C3%A9&e', 'the target as it was given, without the fragment');

# ---- What is not ASCII in a URL's path and query is percent-encoded, a token URL's, too, and shown as it was given.
my $umlaut = $receiver->url('/ü{a}?q=ü&r=%c3%bc');
my $umlaut_login = $receiver->url('/login/ü?q=€');
subscribe('umlaut', qq(config => '{"auth": {"auth_type": "token", "url": "$umlaut_login", "username": "u", "password": "p"}}'));
sql(qq{SELECT whisperer.update_subscription(id, '{"target_url": "$umlaut"}') FROM whisperer.subscriptions WHERE event_type = 'umlaut'});
$receiver->answer('/login/%C3%BC', { body => '{"key": "k"}' });
my $umlaut_id = raise('umlaut');
$node->poll_until('postgres', "SELECT retry_count > 0 FROM whisperer.webhook_events WHERE uuid = '$umlaut_id'");
is( join(' ', map { $_->{target} } grep { $_->{target} =~ /\?q=/ } $receiver->requests),
	'/login/%C3%BC?q=%E2%82%AC /%C3%BC{a}?q=%C3%BC&r=%c3%bc', 'a URL that is not ASCII is percent-encoded, path and query alike');
is(sql("SELECT state || ' ' || target_url FROM whisperer.webhook_events WHERE uuid = '$umlaut_id'"), "delivered $umlaut", '... and shown as it was given');

# ---- The same bytes, id and signature of the body on every attempt; only the time moves on.
subscribe('again', q(secret_key => 'secret'));
$receiver->answer('/again', { status => 500, delay => { headers => 1100 } }, { status => 500 }, { status => 200 });
raise('again', q('{"n": 12345678901234567890.10}'::jsonb));
my @again = $receiver->await('/again', 3);
$node->wait_settled;
is(scalar(@again), 3, 'three attempts');
is($again[$_]{body}, $again[0]{body}, "attempt $_: the same body") for 1, 2;
is($again[$_]{id}, $again[0]{id}, "attempt $_: the same id") for 1, 2;
is($again[$_]{header}{'x-whisperer-signature'}, $again[0]{header}{'x-whisperer-signature'}, "attempt $_: the same X-Whisperer-Signature") for 1, 2;
cmp_ok($again[1]{header}{'webhook-timestamp'}, '>', $again[0]{header}{'webhook-timestamp'}, 'webhook-timestamp is the attempt\'s');
isnt($again[1]{header}{'webhook-signature'}, $again[0]{header}{'webhook-signature'}, '... and so is webhook-signature');
is(scalar(grep { $_->[1] ne 'ok' } $receiver->verify('/again', 'secret')), 0, 'all of which verify');

# ---- No Expect, whatever the size; a large body arrives whole.
subscribe('large', q(secret_key => 'secret'));
raise('large', q(jsonb_build_object('x', repeat('é', 2500000))));
my ($large) = $receiver->await('/large', 1);
$node->wait_settled;
cmp_ok(length $large->{body}, '>', 5_000_000, 'a body of 5 MB');
ok(!exists $large->{header}{expect}, 'without Expect');
is(($receiver->verify('/large', 'secret'))[0][1], 'ok', '... whose signatures verify');

# ---- The user's headers go over ours where they may, and config.auth over theirs.
subscribe('user', q(additional_headers => '{"content-type": "application/vnd.x+json", "USER-AGENT": "mine", "Authorization": "mine", "X-Empty": "", "Accept": "a/b"}'));
raise('user');
my ($user) = $receiver->await('/user', 1);
is(header_names($user), 'Accept Authorization Content-Length Host USER-AGENT X-Empty X-Whisperer-Event content-type webhook-id webhook-timestamp',
	'each header once');
is(join('|', map { $user->{header}{$_} } qw(content-type user-agent authorization x-empty accept)), 'application/vnd.x+json|mine|mine||a/b', 'as the user said');

subscribe('basic', q(additional_headers => '{"authorization": "mine"}', config => '{"auth": {"auth_type": "basic", "username": "Aladdin", "password": "open:sésame"}}'));
raise('basic');
my ($basic) = $receiver->await('/basic', 1);
is($basic->{header}{authorization}, 'Basic ' . encode_base64("Aladdin:open:s\xc3\xa9same", ''), 'basic, RFC 7617');
is(scalar(grep { lc $_->[0] eq 'authorization' } @{ $basic->{headers} }), 1, '... instead of the user\'s');
subscribe('bearer', q(config => '{"auth": {"auth_type": "bearer", "token": "abc-._~+/="}}'));
raise('bearer');
my ($bearer) = $receiver->await('/bearer', 1);
is($bearer->{header}{authorization}, 'Bearer abc-._~+/=', 'bearer, RFC 6750');
$node->wait_settled;

# ---- Changes hold from the next attempt of what is pending; a new event_type does not touch it.
my $change = sql(qq{SELECT whisperer.register_event_type('before'); SELECT whisperer.register_event_type('after');
	SELECT whisperer.subscribe('before', '@{[$receiver->url('/before')]}', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 3000}}')});
$change = (split /\n/, $change)[-1];
$receiver->answer('/before', { status => 500 });
my $changed = raise('before');
$node->poll_until('postgres', "SELECT retry_count FROM whisperer.webhook_events WHERE uuid = '$changed'", 1);
sql(qq{SELECT whisperer.update_subscription($change, '{"event_type": "after", "target_url": "@{[$receiver->url('/after')]}", "secret_key": "new",
	"additional_headers": {"X-New": "yes"}, "config": {"auth": {"auth_type": "bearer", "token": "new"}}}');
	SELECT whisperer.retry('$changed')});
my ($after) = $receiver->await('/after', 1);
my ($before) = $receiver->requests(path => '/before');
$node->wait_settled;
is($after->{id}, $before->{id}, 'what was pending goes to the new URL');
is($after->{body}, $before->{body}, '... with the body it had');
is($after->{header}{'x-whisperer-event'}, 'before', '... under the event type that it had');
is(join('|', map { $after->{header}{$_} } qw(x-new authorization)), 'yes|Bearer new', '... with the new headers');
is(($receiver->verify('/after', 'new'))[0][1], 'ok', '... signed with the new secret');
is( sql("SELECT state, retry_count, cardinality(request_datetimes), request_datetimes[1] > request_datetimes[2] FROM whisperer.webhook_events WHERE uuid = '$changed'"),
	'delivered|2|2|t', 'retry_count and request_datetimes, newest first');
sql(q{SELECT whisperer.deliver_event('{}', t) FROM unnest('{before,after}'::text[]) t});
$receiver->await('/after', 2);
$node->wait_settled;
is($receiver->count(path => '/after'), 2, 'events of the new type are for it, those of the old one no longer');

# ---- Paused: what is pending is kept and not sent, what is raised meanwhile is not for it; resumed: it goes on.
$receiver->answer('/after', { status => 500, times => 3 }, { status => 200 });
my $paused = raise('after');
$node->poll_until('postgres', "SELECT retry_count FROM whisperer.webhook_events WHERE uuid = '$paused'", 1);
sql(qq{SELECT whisperer.update_subscription($change, '{"is_active": false, "retry_countdown_config": {"choice": "fixed", "kwargs": {"seconds": 0}}}')});
is(sql(q{SELECT whisperer.deliver_event('{}', 'after')}), '{}', 'nobody subscribes while it is paused');
raise('plain');
$receiver->await('/plain', 2);
is($receiver->count(path => '/after'), 3, 'paused: nothing is sent');
is(sql("SELECT state FROM whisperer.webhook_events WHERE uuid = '$paused'"), 'pending', '... and what is pending stays');
sql(qq{SELECT whisperer.update_subscription($change, '{"is_active": true}'); SELECT whisperer.retry('$paused')});
$node->poll_until('postgres', "SELECT state FROM whisperer.webhook_events WHERE uuid = '$paused'", 'delivered');
is($receiver->count(path => '/after'), 6, 'resumed: attempts at the new countdown until it is delivered');

# ---- The longest names and URLs there may be.
my $type = sql(q{SELECT string_agg(chr(200000 + (random() * 100000)::int), '') FROM generate_series(1, 124)});
my $path = sql(qq{SELECT '/' || string_agg(md5(i::text), '') FROM generate_series(1, 64) i});
my $url = substr $receiver->url($path), 0, 2048;
sql(qq{SELECT whisperer.register_event_type('$type'); SELECT whisperer.subscribe('$type', '$url')});
is((sql(qq{SELECT whisperer.deliver_event('{}', '$type')}) =~ tr/{}//dr) =~ /^[0-9a-f-]{36}$/ ? 'one' : 'none', 'one', 'the longest names');
$node->wait_settled;
is(length +(grep { length $_->{target} > 1000 } $receiver->requests)[0]{target}, 2048 - length $receiver->url(''), 'the longest URL');

# ---- Nothing that is secret is in the log or in a view of an administrator.
unlike($node->log_since(0), qr/open:s|abc-\._|\b(ERROR|FATAL|PANIC):/, 'no password, and no error, in the log');
is(sql(q{SELECT count(*) FROM whisperer.subscriptions s WHERE s::text ~ 'abc-|s.same'}), 0, 'nor in whisperer.subscriptions');
$node->stop;
done_testing();
