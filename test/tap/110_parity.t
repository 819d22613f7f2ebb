# dj-whisperer's behaviour in 42 rows (docs/coming-from-dj-whisperer.md, "Row by row"): those that no other test runs from end
# to end.  Every row is marked in a test by the words "parity row" and its number, which the end of this file checks.
use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use File::Spec;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;

# Row 42: what a server's environment may have.
my $node;
{
	my $home = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
	append_to_file("$home/.netrc", "machine 127.0.0.1 login netrc password netrc\ndefault login netrc password netrc\n");
	local @ENV{qw(HOME http_proxy HTTP_PROXY https_proxy all_proxy ALL_PROXY)} = ($home, ('http://127.0.0.1:1') x 5);
	# What is old only the test itself removes.
	$node = Whisperer::Node->started('main', settings => 'whisperer.retention = 0');
}
sub sql { return $node->safe_psql('postgres', $_[0]); }
# The SQLSTATE of a statement, or what it answered.
sub answer
{
	my (undef, $out, $errors) = $node->psql('postgres', $_[0], extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
	return $errors =~ /ERROR: +(\w{5})/ ? $1 : $out;
}
sub url { return $receiver->url($_[0]); }
# A type and a subscription to it at the path of its name; the id.
sub subscribe
{
	my ($type, $more) = @_;
	sql("SELECT whisperer.register_event_type('$type')");
	return sql("SELECT whisperer.subscribe('$type', '@{[url(qq(/$type))]}'" . ($more ? ", $more" : '') . ')');
}
sub deliver { my ($type, $json) = @_; return sql("SELECT unnest(whisperer.deliver_event('@{[$json // '{}']}'::jsonb, '$type'))"); }
sub now_and_then { my ($seconds) = @_; return qq(retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": $seconds}}'); }
sub setting { sql("ALTER SYSTEM SET $_[0] = '$_[1]'"); sql('SELECT pg_reload_conf()'); $node->poll_until('postgres', "SHOW $_[0]", $_[2] // $_[1]); return; }
sub until_event { my ($uuid, $columns, $expected) = @_; return $node->poll_until('postgres', "SELECT concat_ws('|', $columns) FROM whisperer.webhook_events WHERE uuid = '$uuid'", $expected); }

# ---- Types and subscriptions
sql(q{SELECT whisperer.register_event_type('package')});
is(answer(q{SELECT whisperer.register_event_type('package')}), 'WH006', 'parity row 1: an event type registered twice');
is(sql(q{SELECT string_agg(event_type, ' ') FROM whisperer.event_types}), 'package', 'parity row 5: the view event_types');

my $one = sql("SELECT whisperer.subscribe('package', '@{[url('/one')]}')");
is(answer("SELECT whisperer.subscribe('package', '@{[url('/one')]}')"), 'WH002', 'parity row 8: a duplicate, by subscribe');
my $two = sql("SELECT whisperer.subscribe('package', '@{[url('/two')]}')");
is(answer("SELECT whisperer.update_subscription($two, '{\"target_url\": \"@{[url('/one')]}\"}')"), 'WH002', 'parity row 8: and by update');
sql("SELECT whisperer.update_subscription($two, '{\"is_active\": false}')");
is(answer("SELECT whisperer.subscribe('package', '@{[url('/two')]}')"), 'WH002', 'parity row 7: a paused one counts');
sql("SELECT whisperer.unsubscribe($two)");
my $again = sql("SELECT whisperer.subscribe('package', '@{[url('/two')]}')");
cmp_ok($again, '>', $two, 'parity row 7: after unsubscribe, the same can be subscribed again');
deliver('package');
$receiver->await('/two', 1);
pass('... and gets its events');

# Row 9: in SQL, roles stand for users.
sql(q{CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE boss; CREATE SCHEMA app; GRANT USAGE, CREATE ON SCHEMA app TO PUBLIC;
	SELECT whisperer.grant_access('alice', 'subscribe'), whisperer.grant_access('bob', 'subscribe'), whisperer.grant_access('boss', 'admin')});
my $hers = sql(qq{SET ROLE alice; SELECT whisperer.subscribe('package', '@{[url('/hers')]}', 'secret', additional_headers => '{"X-A": "a"}', config => '{"a": 1}')});
sql("SET ROLE boss; SELECT whisperer.update_subscription($hers, '{\"additional_headers\": {\"X-B\": \"b\"}}')");
is(sql("SELECT owner, has_secret, additional_headers, config FROM whisperer.subscriptions WHERE id = $hers"), 'alice|t|{"X-B": "b"}|{"a": 1}',
	'parity row 9: the given fields are changed, by another, and the owner stays');
deliver('package');
$receiver->await('/hers', 1);
$node->wait_settled;
is( join(' ', map { sql("SET ROLE $_; SELECT count(*) FROM whisperer.subscriptions") . '/' . sql("SET ROLE $_; SELECT count(*) FROM whisperer.webhook_events") } qw(alice bob boss)),
	'1/1 0/0 4/5', 'parity row 11: subscriptions and deliveries: own, none, all');

# Row 10: a retry under way ends with its subscription. Attempts enough that it does not end before.
my $ending = subscribe('ending', now_and_then(0.5) . q(, config => '{"max_attempts": 1000}'));
$receiver->answer('/ending', { status => 500, times => 100 });
my $cancelled = deliver('ending');
until_event($cancelled, 'state, retry_count > 0', 'pending|t');
sql("SELECT whisperer.unsubscribe($ending)");
$node->wait_settled;
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.in_flight_list()', '0');
my $made = $receiver->count(path => '/ending');
my $other = subscribe('other', now_and_then(1));
$receiver->answer('/other', { status => 500 }, { status => 200 });
deliver('other');
$receiver->await('/other', 2);
is($receiver->count(path => '/ending'), $made, 'parity row 10: once unsubscribed, nothing more is sent');
is(sql("SELECT state FROM whisperer.webhook_events WHERE uuid = '$cancelled'"), 'cancelled', '... and the delivery says so');

# Row 13: a header that signs or identifies, and one that is no string, are refused at once; others hold.
is(answer("SELECT whisperer.subscribe('package', '@{[url('/h')]}', additional_headers => '$_')"), '22023', "parity row 13: $_")
  for '{"X-Whisperer-Signature": "sha256=0"}', '{"webhook-id": "1"}', '{"X-Number": 5}';
is(($receiver->requests(path => '/hers'))[0]{header}{'x-b'}, 'b', 'parity row 13: another header is sent');

# ---- Countdowns and attempts
is(answer(qq(SELECT whisperer.subscribe('package', '@{[url('/k')]}', retry_countdown_config => '{"choice": "linear", "kwargs": {"base": 5, "limitt": 9}}'))), '22023',
	'parity row 16: an extra kwarg is refused');
subscribe('linear', q(retry_countdown_config => '{"choice": "linear", "kwargs": {"base": 700}}'));
$receiver->answer('/linear', { status => 500 });
my $linear = deliver('linear');
for my $attempts (1 .. 3)
{
	ok(until_event($linear, "retry_count, abs(extract(epoch FROM next_attempt_at - modified_date) - 700 * $attempts) < 100", "$attempts|t"),
		"parity row 18: linear, after $attempts attempts: $attempts times the base");
	sql("SELECT whisperer.retry('$linear')");
}
subscribe('short', now_and_then(0));
$receiver->answer('/short', { status => 500 });
my $short = deliver('short');
until_event($short, 'state, retry_count, response_http_status, cardinality(request_datetimes)', 'failed|18|500|18');
is($receiver->count(path => '/short'), 18, 'parity row 19: eighteen attempts by default, however short the countdown; then failed');

# Row 20: 304, and a redirect: failures, retried with the same POST until the receiver answers 2xx.
subscribe('moved', now_and_then(0.1));
$receiver->answer('/moved', { raw => "HTTP/1.1 304 Not Modified\r\n\r\n" }, { status => 302, headers => [ [ 'Location', url('/elsewhere') ] ] }, { status => 200 });
my $moved = deliver('moved');
until_event($moved, 'state, retry_count, response_http_status', 'delivered|3|200');
is(join(' ', map { "$_->{method} " . length $_->{body} } $receiver->requests(path => '/moved')), join(' ', ('POST ' . length(($receiver->requests(path => '/moved'))[0]{body})) x 3),
	'parity row 20: 304 and 302 are retried, with POST and the whole body');
is($receiver->count(path => '/elsewhere'), 0, '... and not followed');

# Row 21 and 22: no status that nobody sent; text as it came.
$receiver->refusing_port('closed');
my $closed = $receiver->url('/', port => 'closed');
sql(qq{SELECT whisperer.register_event_type('refused'); SELECT whisperer.subscribe('refused', '$closed', @{[now_and_then(3000)]})});
my $refused = deliver('refused');
ok(until_event($refused, q(retry_count, response_http_status IS NULL, response_content IS NULL, error ~ 'connect'), '1|t|t|t'), 'parity row 21: a transport error has no status, and says what it was');
subscribe('text');
$receiver->answer('/text', { body => q(it's "fine") });
my $text = deliver('text');
ok(until_event($text, 'response_content', q(it's "fine")), 'parity row 22: the response as text');

# Row 23: the columns, of a delivery that failed once.
sql(q{CREATE TABLE app.parcel (id int, name text); SELECT whisperer.attach('app.parcel', 'parcel')});
sql("SELECT whisperer.subscribe('parcel', '@{[url('/parcel')]}', @{[now_and_then(0.2)]})");
$receiver->answer('/parcel', { status => 500 }, { status => 202, body => 'taken' });
sql(q{INSERT INTO app.parcel VALUES (1, 'first')});
$receiver->await('/parcel', 2);
$node->poll_until('postgres', q{SELECT delivered, retry_count, cardinality(request_datetimes), request_datetimes[1] > request_datetimes[2],
	response_time > '0', response_http_status, response_content, relation, request_payload -> 'payload' -> 'id'
	FROM whisperer.webhook_events WHERE event_type = 'parcel'}, 't|2|2|t|t|202|taken|app.parcel|1');
pass('parity row 23: retry_count, request_datetimes newest first, response_time, delivered, relation');

# ---- Functions
sql(q{CREATE FUNCTION app.secret_callback(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS 'SELECT 1';
	REVOKE EXECUTE ON FUNCTION app.secret_callback FROM PUBLIC});
is(answer("SET ROLE bob; SELECT whisperer.subscribe('package', '@{[url('/bob')]}', callback => 'app.secret_callback')"), '42501', 'parity row 25: a callback needs EXECUTE');
sql(q{GRANT EXECUTE ON FUNCTION app.secret_callback TO bob});
like(answer("SET ROLE bob; SELECT whisperer.subscribe('package', '@{[url('/bob')]}', callback => 'app.secret_callback')"), qr/^\d+$/, '... and no more');

# ---- Delivering
sql("SELECT whisperer.subscribe('parcel', '@{[url('/row')]}')");
$receiver->forget;
sql(q{BEGIN; INSERT INTO app.parcel VALUES (2, 'as it was'); UPDATE app.parcel SET name = 'later' WHERE id = 2; DELETE FROM app.parcel WHERE id = 2; COMMIT});
my ($row) = $receiver->await('/row', 1);
like($row->{body}, qr/"payload": \{"id": 2, "name": "as it was"\}/, 'parity row 26: the row as it was when the event was raised, though it is gone since');

subscribe('filtered', q(config => '{"n": 1, "s": "x", "list": [1, 2], "deep": {"a": 1, "b": 2}, "auth": {"auth_type": "bearer", "token": "t"}}'));
for my $case ([ '{"n": 1}', 1 ], [ '{"n": "1"}', 0 ], [ '{"n": 1, "s": "x"}', 1 ], [ '{"n": 1, "s": "y"}', 0 ], [ '{"n": 1.0}', 1 ], [ '{}', 1 ],
	[ '{"list": [2]}', 1 ], [ '{"deep": {"b": 2}}', 1 ], [ '{"deep": {"b": 1}}', 0 ], [ '{"n__in": [1]}', 0 ], [ '{"missing": null}', 0 ], [ '{"auth": {}}', '22023' ])
{
	is(answer("SELECT cardinality(whisperer.deliver_event('{}', 'filtered', config_filter => '$case->[0]'))"), $case->[1], "parity row 30: $case->[0]");
}

sql(q{SELECT whisperer.register_event_type('lonely')});
is(answer(q{SELECT whisperer.deliver_event('{}', 'lonely')}), '{}', 'parity row 31: no subscriber: nothing happens');
is(answer(q{SELECT whisperer.deliver_event('{}', 'nothing')}), 'WH004', 'parity row 31: an unknown type, without a subscription');
my $paused = subscribe('forgotten');
sql("SELECT whisperer.update_subscription($paused, '{\"is_active\": false}'); SELECT whisperer.unregister_event_type('forgotten')");
is(answer(q{SELECT whisperer.deliver_event('{}', 'forgotten')}), 'WH004', '... and with one');

# Row 32: nothing after a rollback, and nothing before the commit.
$receiver->forget;
my $session = $node->background_psql('postgres');
$session->query_safe(q{BEGIN; SELECT whisperer.deliver_event('{"n": 1}', 'text')});
sql(q{BEGIN; SELECT whisperer.deliver_event('{"n": 2}', 'text'); ROLLBACK; SELECT whisperer.deliver_event('{"n": 3}', 'text')});
$receiver->await('/text', 1);
$session->query_safe('COMMIT');
$receiver->await('/text', 2);
$session->quit;
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.pending WHERE event_type = 'text'}, 0);
is(join(' ', map { $_->{body} =~ /"n": (\d)/ } $receiver->requests(path => '/text')), '3 1', 'parity row 32: sent after its commit, and not after a rollback');

# Row 33: a delivery whose second attempt was under way when everything crashed comes again, under the same uuid.
subscribe('crash', now_and_then(0.1));
$receiver->answer('/crash', { status => 500 }, { hang => 'request' }, { status => 200 });
my $crashed = deliver('crash');
$receiver->await('/crash', 2);
until_event($crashed, 'retry_count', 1);
$node->crash_and_start;
$receiver->await('/crash', 3);
until_event($crashed, 'state', 'delivered');
is(join(' ', map { $_->{id} } $receiver->requests(path => '/crash')), "$crashed $crashed $crashed", 'parity row 33: after a crash it comes again, under the same uuid');
$receiver->release('/crash');

# Row 34: nobody is there to send: the caller does not wait for it, and nothing is lost.
setting('whisperer.enabled', 'off');
$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'disabled');
my $start = time();
my $stored = deliver('text', '{"n": 4}');
cmp_ok(time() - $start, '<', 60, 'parity row 34: the caller waits for nobody');
is(sql("SELECT state FROM whisperer.webhook_events WHERE uuid = '$stored'"), 'pending', '... and gets no error');
setting('whisperer.enabled', 'on');
ok(until_event($stored, 'state', 'delivered'), '... it is sent when somebody is');

# Row 35: (connect, read); the second bounds the whole response, not each piece of it. Its beginning comes within it on any machine.
setting('whisperer.request_timeout', '(20, 8)');
subscribe('trickle', now_and_then(3000));
$receiver->answer('/trickle', { body_size => 100, trickle => { bytes => 1, interval => 200 } });
my $trickle = deliver('trickle');
ok(until_event($trickle, q(retry_count, error ~ '^the response was not complete within 8 s'), '1|t'), 'parity row 35: two numbers; a receiver that trickles is cut off');
setting('whisperer.request_timeout', '70');
is(sql('SHOW whisperer.request_timeout'), '70', 'parity row 35: one number');

# Row 36: the net below: work that nobody announced.
my $unannounced = sql(q{INSERT INTO whisperer.delivery (uuid, subscription_id, xid, event_type, payload)
	SELECT gen_random_uuid(), id, pg_current_xact_id(), event_type, '{"n": 5}' FROM whisperer.subscriptions WHERE event_type = 'text' RETURNING uuid});
setting('whisperer.safety_scan_interval', '1s');
ok(until_event($unannounced, 'state', 'delivered'), 'parity row 36: the safety scan finds what nobody announced');

# Row 37: settled ones, of that age, so many.
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.pending WHERE retry_count = 0', '0');
sql(q{UPDATE whisperer.history SET modified_date = now() - interval '13 weeks' WHERE event_type IN ('text', 'filtered')});
my ($old, $young) = split /\|/, sql(q{SELECT count(*) FILTER (WHERE modified_date < now() - interval '12 weeks'), count(*) FILTER (WHERE modified_date > now() - interval '12 weeks')
	FROM whisperer.history});
my $pending = sql('SELECT count(*) FROM whisperer.pending');
is(sql(q{SELECT whisperer.prune('12 weeks', 2), whisperer.prune('12 weeks', 10000)}), '2|' . ($old - 2), 'parity row 37: prune');
is(sql('SELECT count(*) FROM whisperer.history'), $young, '... and no younger ones');
is(sql('SELECT count(*) FROM whisperer.pending'), $pending, '... nor what is pending');

# Row 38: retry, and with force the same one again.
is(answer("SELECT whisperer.retry('$moved')"), 'WH005', 'parity row 38: a delivered one is not sent again');
$receiver->forget;
sql("SELECT whisperer.retry('$moved', force => true)");
is(($receiver->await('/moved', 1))[0]{id}, $moved, '... unless forced, under the same uuid');
until_event($moved, 'state', 'delivered');

# Row 39: dj-whisperer's filters of the list.
my $list = sub { return sql("SELECT count(*) FROM whisperer.webhook_events WHERE $_[0]"); };
is($list->("uuid = '$moved' AND event_type = 'moved' AND response_http_status = 200 AND delivered AND created_date BETWEEN now() - interval '1 hour' AND now()
	AND modified_date > created_date AND subscription_id = (SELECT id FROM whisperer.subscriptions WHERE event_type = 'moved')"), '1', 'parity row 39: by uuid, type, status, delivered, dates and subscription');
is($list->(q(relation = 'app.parcel'::regclass AND request_payload @> '{"payload": {"id": 1}}')), '1', 'parity row 39: by object');

# ---- Errors
is(join(' ', map { answer($_) }
		"SELECT whisperer.unsubscribe(9999)", "SELECT whisperer.subscribe('package', '@{[url('/one')]}')", "SELECT whisperer.retry('00000000-0000-0000-0000-000000000000')",
		q{SELECT whisperer.subscribe('nothing', 'https://example.com/')}, "SELECT whisperer.cancel('$moved')", q{SELECT whisperer.register_event_type('package')},
		q{SELECT whisperer.register_countdown('fixed', 'nothing')}),
	'WH001 WH002 WH003 WH004 WH005 WH006 WH007', 'parity row 41: codes of errors (WH008: 081_event_uuid.t)');
like(slurp_file("$FindBin::RealBin/../../docs/coming-from-dj-whisperer.md"), qr/^\| `$_` \|.*(WH00|22023|WH008)/m, "parity row 41: $_ is in the documentation")
  for 'webhook_100_1', 'webhook_100_2', map { "event_100_$_" } 1 .. 6;

# ---- Connections
my $before = $receiver->statistics->{connections};
$receiver->forget;
for (1 .. 5) { until_event(deliver('other'), 'state', 'delivered'); } # while a request is under way the next one needs another
is($receiver->count(path => '/other'), 5, 'five requests');
cmp_ok($receiver->statistics->{connections} - $before, '<=', 1, 'parity row 42: one connection for all');
ok(!(grep { exists $_->{header}{authorization} } $receiver->requests), 'parity row 42: nothing from a .netrc, nor through a proxy of the environment');

# ---- Every row is marked in some test, and documented.
my %marked;
for my $file (map { glob "$FindBin::RealBin/../../$_" } 'test/tap/*.t', 'test/pgtap/*.sql', 'test/core/*.cpp', 'sql/*.sql')
{
	my $content = slurp_file($file);
	while ($content =~ /parity rows? (\d+(?:(?:, | and )\d+)*)/gi) { $marked{$_} = 1 for $1 =~ /\d+/g; }
}
is(join(' ', grep { !$marked{$_} } 1 .. 42), '', 'every row is marked in a test');

$node->stop;
done_testing();
