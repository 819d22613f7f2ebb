# A delivery is cancelled while its request is under way, and its answer comes while somebody has the cancelled row locked: the
# answer is not lost. A delivery is retried while its request is under way. What was answered with 2xx is delivered after all, whatever becomes of that lock.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;

use Whisperer::Node;
use Whisperer::Receiver;

my $node = Whisperer::Node->started('main', settings => 'whisperer.request_timeout = 600');
my $receiver = Whisperer::Receiver->new;
my $holder = $node->background_psql('postgres');

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub subscribe
{
	my ($type, $more) = @_;
	my $url = $receiver->url("/$type");
	sql(qq{SELECT whisperer.register_event_type('$type'); SELECT whisperer.subscribe('$type', '$url'@{[$more // '']})});
	return;
}
subscribe('other');

# ---- What the other session does with the row, its end, the answer, and what is to be seen then.
my @cases = (
	[ 'cancel', 'COMMIT', 200, 'delivered|1|200' ],
	[ 'cancel', 'ROLLBACK', 200, 'delivered|1|200' ],
	[ 'retry', 'ROLLBACK', 200, 'delivered|1|200' ],
	[ 'retry', 'COMMIT', 200, 'delivered|1|200' ],
	[ 'cancel', 'COMMIT', 500, 'cancelled|1|500' ]);
my $others = 0;
for my $number (1 .. @cases)
{
	my ($call, $end, $status, $expected) = @{ $cases[ $number - 1 ] };
	my $name = "$call, $end, $status";
	my $type = "t$number";
	subscribe($type);
	$receiver->answer("/$type", {hang => 'request', status => $status});
	my $uuid = sql("SELECT (whisperer.deliver_event('{}'::jsonb, '$type'))[1]");
	$receiver->await("/$type", 1);
	sql("SELECT whisperer.cancel('$uuid')");
	$holder->query_safe("BEGIN; SELECT whisperer.$call('$uuid')");
	$receiver->release("/$type");
	# The answer has come, and when one that comes later has been recorded, its turn was there.
	$node->poll_until('postgres', q{SELECT in_flight FROM whisperer.workers WHERE kind = 'delivery'}, '0');
	sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'other')});
	$others++;
	$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'other' AND delivered}, $others);
	is(sql("SELECT state FROM whisperer.webhook_events WHERE uuid = '$uuid'"), 'cancelled', "$name: while the row is locked");
	$holder->query_safe($end);
	my $seen = eval {
		$node->poll_until('postgres',
			"SELECT concat_ws('|', state, retry_count, response_http_status) FROM whisperer.webhook_events WHERE uuid = '$uuid'",
			$expected);
	};
	is($seen ? $expected : $@, $expected, "$name: recorded afterwards");
	is($receiver->count(path => "/$type"), 1, "$name: in one request");
}
ok($node->poll_until('postgres', q{SELECT concat_ws(' ', attempts, delivered, failed) FROM whisperer.statistics}, '10 9 0'),
	'each is counted once');

# ---- retry() while the request is under way: when that fails, the next one goes out at once, whatever the countdown says. The
# transaction that calls it may have begun before.
for my $calls ('retry', 'cancel retry')
{
	my $type = 'asked-' . $calls =~ tr/ /-/r;
	subscribe($type, q(, retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 90000}}'));
	$receiver->answer("/$type", {hang => 'request', status => 500}, {status => 500}, {status => 200});
	$holder->query_safe('BEGIN; SELECT 1');
	my $uuid = sql("SELECT (whisperer.deliver_event('{}'::jsonb, '$type'))[1]");
	$receiver->await("/$type", 1);
	$holder->query_safe(join('; ', map { "SELECT whisperer.$_('$uuid')" } split / /, $calls) . '; COMMIT');
	$receiver->release("/$type");
	ok(eval { $receiver->await("/$type", 2) }, "$calls: the next attempt goes out at once") or diag $@;
	$node->poll_until('postgres', "SELECT retry_count || state FROM whisperer.webhook_events WHERE uuid = '$uuid'", '2pending');
	is(sql("SELECT next_attempt_at > now() + interval '1 hour' FROM whisperer.webhook_events WHERE uuid = '$uuid'"), 't', '... and once only');
}

# ---- retry() of what has been read and waits for its turn: that turn is what was asked for, and its countdown holds.
subscribe('behind', q(, config => '{"max_in_flight": 1}', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 90000}}'));
$receiver->answer('/behind', {status => 200});
my $raise = q{SELECT (whisperer.deliver_event('{}'::jsonb, 'behind'))[1] FROM generate_series(1, 14)};
sql($raise);
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'behind' AND delivered}, '14');
$receiver->answer('/behind', {hang => 'request', status => 500}, {status => 500});
sql($raise);
$receiver->await('/behind', 15);
sql(q{SELECT whisperer.retry(uuid) FROM whisperer.pending WHERE event_type = 'behind'});
$receiver->release('/behind');
# The one that was under way comes last, and waits for its turn until then.
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.pending WHERE event_type = 'behind' AND next_attempt_at > now() + interval '1 hour'}, '14');
$node->poll_until('postgres', q{SELECT in_flight FROM whisperer.workers WHERE kind = 'delivery'}, '0');
is(sql(q{SELECT string_agg(retry_count::text, ' ' ORDER BY retry_count) FROM whisperer.pending WHERE event_type = 'behind'
		AND next_attempt_at > now() + interval '1 hour'}),
	join(' ', (1) x 13, 2), 'retry() of what waits for its turn: one attempt each, and one more for that which was under way');

$holder->quit;
$node->stop;
done_testing();
