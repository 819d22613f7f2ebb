# The JSON bodies of dj-whisperer's manual, unchanged but for the receiver's scheme and host (the functions are even called
# as there: foo.callback): each subscribes, and its whole scenario runs byte for byte. parity rows 6, 14, 16, 17, 18, 24.
use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_base64 hmac_sha256_hex);
use MIME::Base64 qw(encode_base64);
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }
my ($major) = sql('SHOW server_version_num') =~ /^(\d+)\d{4}$/;
my $version = sql(q{SELECT extversion FROM pg_extension WHERE extname = 'whisperer'});

my $exponential = <<'JSON';
{
    "event_type": "package-created",
    "secret_key": "<secret>",
    "target_url": "https://example.com/",
    "callback": "foo.callback",
    "retry_countdown_config": {
        "choice": "exponential",
        "kwargs": {
            "base": 2
        }
    }
}
JSON
my $custom = <<'JSON';
{
    "event_type": "package-created",
    "secret_key": "<secret>",
    "target_url": "https://example.com/custom/",
    "retry_countdown_config": {
        "choice": "custom",
        "kwargs": {
            "factor": 5
        }
    }
}
JSON
my $basic = <<'JSON';
{
    "event_type": "order-created",
    "target_url": "https://example.com/order-created/",
    "config": {
        "auth": {
            "auth_type": "basic",
            "username": "username",
            "password": "password"
        }
    }
}
JSON

# What the manual has in Python: the event class with its serializer, the callback, the countdown with its kwargs serializer.
sql(q{
	CREATE SCHEMA foo;
	CREATE TABLE foo.package (id integer PRIMARY KEY, destination text);
	CREATE FUNCTION foo.package_serializer(package foo.package) RETURNS jsonb LANGUAGE sql STABLE AS
		$$ SELECT jsonb_build_object('destination', package.destination, 'id', package.id) $$;
	CREATE TABLE foo.called (number bigserial, response jsonb, event_type text, instance jsonb, payload jsonb);
	CREATE FUNCTION foo.callback(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO foo.called (response, event_type, instance, payload) VALUES ($1, $2, $3, $4) $$;
	CREATE FUNCTION foo.custom(retry_count integer, kwargs jsonb) RETURNS numeric LANGUAGE sql IMMUTABLE AS
		$$ SELECT (kwargs ->> 'factor')::numeric * retry_count * CASE WHEN retry_count % 2 = 0 THEN 2 ELSE 1 END $$;
	CREATE FUNCTION foo.custom_kwargs(kwargs jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN
		IF jsonb_typeof(kwargs -> 'factor') IS DISTINCT FROM 'number' THEN
			RAISE 'factor must be a number' USING ERRCODE = 'invalid_parameter_value';
		END IF;
		RETURN kwargs;
	END $$;
	SELECT whisperer.register_event_type('package-created', serializer => 'foo.package_serializer');
	SELECT whisperer.register_event_type('order-created');
	SELECT whisperer.register_countdown('custom', 'foo.custom', 'foo.custom_kwargs')});

my $base = $receiver->url('') =~ s{/$}{}r;
sub subscribe
{
	my ($json) = @_;
	$json =~ s{https://example\.com}{$base} or die 'no URL';
	return sql("SELECT whisperer.subscribe('$json'::jsonb)");
}
my ($first, $second, $third) = map { subscribe($_) } $exponential, $custom, $basic;
is( sql(q{SELECT event_type, substr(target_url, length('} . $base . q{') + 1), has_secret, auth_type, callback, retry_countdown_config, additional_headers, config
		FROM whisperer.subscriptions ORDER BY id}),
	"package-created|/|t||foo.callback(jsonb, text, jsonb, jsonb)|{\"choice\": \"exponential\", \"kwargs\": {\"base\": 2}}|{}|{}\n"
	. "package-created|/custom/|t|||{\"choice\": \"custom\", \"kwargs\": {\"factor\": 5}}|{}|{}\n"
	. 'order-created|/order-created/|f|basic|||{}|{}', 'parity row 6: the bodies of the manual are subscriptions');

# The whole of a request but for its time, which is returned.
sub check_request
{
	my ($request, $target, $type, $id, $payload, $secret, $more, $what) = @_;
	my $hex = $id =~ tr/-//dr;
	my $body = qq({"event": {"type": "$type", "uuid": "$hex"}, "payload": $payload});
	is($request->{body}, $body, "$what: the body");
	my ($time) = $request->{head} =~ /\r\nwebhook-timestamp: (\d{10})\r\n/;
	my @lines = ("POST $target HTTP/1.1", 'Host: 127.0.0.1:' . $receiver->port, 'Content-Type: application/json',
		"User-Agent: whisperer/$version (PostgreSQL $major)", "X-Whisperer-Event: $type", "webhook-id: $id", "webhook-timestamp: $time",
		'Content-Length: ' . length $body, @$more);
	push @lines, 'X-Whisperer-Signature: sha256=' . hmac_sha256_hex($body, $secret),
	  'webhook-signature: v1,' . hmac_sha256_base64("$id.$time.$body", $secret) . '=' if defined $secret;
	is(join("\n", sort split /\r\n/, $request->{head}), join("\n", sort @lines), "$what: the head: these lines, and no others");
	return $time;
}
# From one request to the next it took so many seconds, or a little more.
sub check_gap
{
	my ($one, $two, $seconds, $what, $least) = @_;
	my $gap = $two->{arrived} - $one->{arrived};
	ok($gap >= ($least // $seconds - 0.05) && $gap < $seconds + 60, "$what: after $seconds s") or diag("after $gap s");
	return;
}

# ---- A package: two receivers that fail at first.
$receiver->answer('/', { status => 500, body => 'not yet' }, { status => 503, body => 'nor now' }, { status => 201, body => 'thanks' });
$receiver->answer('/custom/', { status => 500, times => 3 }, { status => 200 });
sql(q{BEGIN;
	INSERT INTO foo.package VALUES (1, 'Ankara');
	SELECT whisperer.deliver_event(p, 'package-created') FROM foo.package p;
	COMMIT});
my $payload = '{"id": 1, "destination": "Ankara"}';
my %uuid = map { split /\|/ } split /\n/, sql('SELECT subscription_id, uuid FROM whisperer.webhook_events');

# exponential, base 2: after 2 and 4 seconds, the number of attempts being 1 at the first retry.
my @requests = $receiver->await('/', 3);
check_request($requests[$_], '/', 'package-created', $uuid{$first}, $payload, '<secret>', [], "exponential, attempt " . ($_ + 1)) for 0 .. 2;
check_gap($requests[0], $requests[1], 2, 'parity rows 16, 18: the first retry');
check_gap($requests[1], $requests[2], 4, 'the second');
is(join(' ', map { $_->[1] } $receiver->verify('/', '<secret>')), 'ok ok ok', 'signatures verify with code that is not ours');

$node->poll_until('postgres', 'SELECT count(*) FROM foo.called', 3);
my $hex = $uuid{$first} =~ tr/-//dr;
is(sql('SELECT DISTINCT event_type, instance, payload FROM foo.called'),
	qq(package-created|$payload|{"event": {"type": "package-created", "uuid": "$hex"}, "payload": $payload}),
	'parity row 24: event_type, instance and payload of the callback, the same at each attempt');
is( sql(q{SELECT response -> 'attempt', response -> 'status', response -> 'delivered', response -> 'body', response ->> 'event_uuid',
		response -> 'error', (response -> 'elapsed_ms')::float8 > 0, jsonb_typeof(response -> 'headers') FROM foo.called ORDER BY number}),
	qq(1|500|false|"not yet"|$uuid{$first}|"the receiver answered with status 500"|t|object\n)
	. qq(2|503|false|"nor now"|$uuid{$first}|"the receiver answered with status 503"|t|object\n)
	. qq(3|201|true|"thanks"|$uuid{$first}|null|t|object), 'and response, which has all its keys');
is(sql('SELECT string_agg(DISTINCT k, $$ $$ ORDER BY k) FROM foo.called, jsonb_object_keys(response) k'),
	'attempt body delivered elapsed_ms error event_uuid headers status', 'and no others');
is(sql("SELECT state, retry_count, cardinality(request_datetimes), response_http_status, response_content FROM whisperer.webhook_events WHERE uuid = '$uuid{$first}'"),
	'delivered|3|3|201|thanks', 'delivered at the third attempt');

# custom, factor 5: 5, 20 and 15 seconds. The first is waited for, the others are seen in the table and cut short.
# Where the function is not called before that, the first is the default schedule's: 4.5 s at least. (The others tell them apart.)
@requests = $receiver->await('/custom/', 2);
check_gap($requests[0], $requests[1], 5, 'parity row 17: the first retry of the custom countdown', 4.4);
for my $case ([ 2, 20 ], [ 3, 15 ])
{
	my ($attempts, $seconds) = @$case;
	# The clock was read for each of the two.
	ok($node->poll_until('postgres', "SELECT abs(extract(epoch FROM next_attempt_at - modified_date) - $seconds) < 4
		FROM whisperer.webhook_events WHERE uuid = '$uuid{$second}' AND retry_count = $attempts"), "parity row 17: $attempts attempts: $seconds s");
	sql("SELECT whisperer.retry('$uuid{$second}')");
	$receiver->await('/custom/', $attempts + 1);
}
@requests = $receiver->await('/custom/', 4);
check_request($requests[$_], '/custom/', 'package-created', $uuid{$second}, $payload, '<secret>', [], 'custom, attempt ' . ($_ + 1)) for 0 .. 3;
$node->poll_until('postgres', "SELECT state FROM whisperer.webhook_events WHERE uuid = '$uuid{$second}'", 'delivered');
is(sql('SELECT count(*) FROM whisperer.function_failures'), '0', 'no function went wrong');

# ---- Basic authentication.
my $order = sql(q{SELECT unnest(whisperer.deliver_event('{"id": 7}'::jsonb, 'order-created'))});
my ($request) = $receiver->await('/order-created/', 1);
check_request($request, '/order-created/', 'order-created', $order, '{"id": 7}', undef,
	[ 'Authorization: Basic ' . encode_base64('username:password', '') ], 'parity row 14: basic');
is($request->{header}{authorization}, 'Basic dXNlcm5hbWU6cGFzc3dvcmQ=', 'as RFC 7617 has it');
$node->wait_settled;
is($receiver->count(path => '/'), 3, 'nothing more was sent to the first');
is($receiver->count(path => '/custom/'), 4, 'nor to the second');
unlike($node->log_since(0), qr/<secret>|\b(ERROR|FATAL|PANIC):/, 'no secret and no error in the log');

$node->stop;
done_testing();
