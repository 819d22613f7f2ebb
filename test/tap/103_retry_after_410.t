# Retry-After holds back the whole subscription, and nobody else, through crash and restart; a 410 deactivates it, the rest
# waits, and it goes on when it is activated again.  Then the ends of a delivery: max_attempts, retry, force, cancel in flight.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }

sub subscribe
{
	my ($type, $config) = @_;
	$config //= '{}';
	sql("SELECT whisperer.register_event_type('$type')");
	return sql(qq{SELECT whisperer.subscribe('$type', '@{[$receiver->url("/$type")]}', config => '$config',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0.1}}')});
}
sub raise { my ($type, $n) = @_; return split /\n/, sql("SELECT unnest(whisperer.deliver_event(jsonb_build_object('n', n), '$type')) FROM generate_series(1, @{[$n // 1]}) n"); }
sub story { return sql("SELECT state, retry_count, response_http_status FROM whisperer.webhook_events WHERE uuid = '$_[0]'"); }

# ---- Retry-After: others of the subscription wait, other subscriptions do not.
# Long enough for what is done meanwhile.
my $pause = $ENV{WHISPERER_POSTGRES} ? 180 : 15;
subscribe($_) for qw(busy free);
$receiver->answer('/busy', { status => 503, headers => [ [ 'Retry-After', $pause ] ] }, { status => 200 });
my ($first) = raise('busy');
$node->poll_until('postgres', q{SELECT paused_until IS NOT NULL FROM whisperer.subscription_health WHERE event_type = 'busy'});
raise('busy', 3);
raise('free', 3);
$receiver->await('/free', 3);
# However long that took: nothing came before its time.
sub held_back { my ($one, @more) = $receiver->requests(path => '/busy'); return !grep { $_->{arrived} - $one->{arrived} < $pause - 0.1 } @more; }
ok(held_back(), 'nothing more is sent to the subscription, and others are served');
sql("SELECT whisperer.retry('$first')");
# What a crash finds sent and not yet recorded would be sent again.
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.pending WHERE event_type = 'free'}, '0');
$node->crash_and_start;
raise('free', 3);
$receiver->await('/free', 6);
my @busy = $receiver->await('/busy', 5);
ok(held_back(), 'also after a crash, and retry() does not lift it: sent when the time is over');
cmp_ok($busy[4]{arrived} - $busy[0]{arrived}, '<', $pause + 60, '... and soon');
$node->wait_settled;
is(sql(q{SELECT consecutive_failures, coalesce(paused_until, '-infinity') < now(), last_status FROM whisperer.subscription_health WHERE event_type = 'busy'}),
	'0|t|200', 'health is well again');

# A day at most, and a whole day through a restart.
my $day = subscribe('day');
$receiver->answer('/day', { status => 429, headers => [ [ 'Retry-After', '999999999' ] ] });
raise('day');
my $until = q{SELECT paused_until FROM whisperer.subscription_health WHERE event_type = 'day'};
$node->poll_until('postgres', "SELECT ($until) IS NOT NULL");
my $paused = sql($until);
is(sql("SELECT '$paused' BETWEEN now() + interval '23 hours' AND now() + interval '1 day'"), 't', 'one day at most');
$node->restart;
is(sql($until), $paused, 'subscription_health knows it after a restart');
raise('day');
raise('free');
$receiver->await('/free', 7);
is($receiver->count(path => '/day'), 1, 'and it holds');
sql("SELECT whisperer.unsubscribe($day)");

# ---- 410
my $gone = subscribe('gone');
$receiver->behave(path => '/gone', per => 'webhook-id', steps => [ { status => 500, delay => { headers => 300 } }, { status => 410, body => 'bye' } ]);
my @gone = raise('gone', 3);
$node->poll_until('postgres', "SELECT is_active FROM whisperer.subscriptions WHERE id = $gone", 'f');
like(sql("SELECT inactive_reason FROM whisperer.subscriptions WHERE id = $gone"), qr/410/, 'deactivated, with the reason');
$node->poll_until('postgres', "SELECT in_flight FROM whisperer.subscription_health WHERE subscription_id = $gone", '0');
is(sql("SELECT count(*) > 0 FROM whisperer.failed WHERE subscription_id = $gone AND response_http_status = 410 AND response_content = 'bye' AND next_attempt_at IS NULL"), 't', '410: failed at once');
is(sql("SELECT count(*) FROM whisperer.webhook_events WHERE subscription_id = $gone AND state NOT IN ('failed', 'pending')"), '0', 'the others wait');
is(sql(q{SELECT whisperer.deliver_event('{}', 'gone')}), '{}', 'and new events are not for it');
my $sent = $receiver->count(path => '/gone');
$node->restart;
raise('free');
$receiver->await('/free', 8);
is($receiver->count(path => '/gone'), $sent, 'nothing is sent to it any more, also after a restart');
my ($code, undef, $error) = $node->psql('postgres', "SELECT whisperer.retry(uuid) FROM whisperer.failed WHERE subscription_id = $gone LIMIT 1");
like($error, qr/HINT/, 'retry says what to do first');
$receiver->answer('/gone', { status => 200 });
sql(qq{SELECT whisperer.update_subscription($gone, '{"is_active": true}')});
is(sql("SELECT is_active, inactive_reason IS NULL FROM whisperer.subscriptions WHERE id = $gone"), 't|t', 'active again');
$node->wait_settled;
sql("SELECT whisperer.retry_failed($gone)");
$node->wait_settled;
is(sql("SELECT count(*) FROM whisperer.webhook_events WHERE subscription_id = $gone AND delivered"), '3', 'all of them are delivered in the end');

# ---- max_attempts: the subscription's own, and then it is over; the revived has one more attempt, and its countdown counts on.
my $limited = subscribe('limited', '{"max_attempts": 3}');
$receiver->answer('/limited', { status => 500, times => 4 }, { status => 200 });
my ($limited_uuid) = raise('limited');
$node->wait_settled;
is(story($limited_uuid), 'failed|3|500', 'config.max_attempts');
is($receiver->count(path => '/limited'), 3, 'three requests');
sql("SELECT whisperer.retry('$limited_uuid')");
$node->wait_settled;
is(story($limited_uuid), 'failed|4|500', 'revived: one more attempt');
sql("SELECT whisperer.retry('$limited_uuid')");
$node->wait_settled;
is(story($limited_uuid), 'delivered|5|200', '... and another');
sql("SELECT whisperer.retry('$limited_uuid', force => true)");
$node->wait_settled;
is(story($limited_uuid), 'delivered|6|200', 'force: sent again');
is(join(' ', map { $_->{id} } $receiver->requests(path => '/limited')), join(' ', ($limited_uuid) x 6), '... under the same uuid');

# The countdown of a revived one counts on: linear, 1000 s for each attempt made.
sql(qq{SELECT whisperer.update_subscription($limited, '{"retry_countdown_config": {"choice": "linear", "kwargs": {"base": 1000}}, "config": {"max_attempts": 4}}')});
$receiver->answer('/limited', { status => 500 });
my ($counts) = raise('limited');
for my $attempt (1 .. 3)
{
	$node->poll_until('postgres', "SELECT retry_count, round(extract(epoch FROM next_attempt_at - request_datetimes[1]) / 1000) FROM whisperer.pending WHERE uuid = '$counts'", "$attempt|$attempt");
	pass("linear: $attempt made, $attempt times the base");
	sql("SELECT whisperer.retry('$counts')");
}
$node->poll_until('postgres', "SELECT state, retry_count FROM whisperer.webhook_events WHERE uuid = '$counts'", 'failed|4');
sql(qq{SELECT whisperer.update_subscription($limited, '{"config": {"max_attempts": 10}}'); SELECT whisperer.retry('$counts')});
$node->poll_until('postgres', "SELECT retry_count, round(extract(epoch FROM next_attempt_at - request_datetimes[1]) / 1000) FROM whisperer.pending WHERE uuid = '$counts'", '5|5');
pass('revived, it counts on');
sql("SELECT whisperer.unsubscribe($limited)");

# ---- Cancelled while it was in flight: a 2xx is a delivery after all, anything else stays cancelled.
my $late = subscribe('late', '{"request_timeout": 600}');
for my $case ([ 200, 'delivered|1|200' ], [ 500, 'cancelled|1|500' ], [ 410, 'cancelled|1|410' ])
{
	my ($status, $expected) = @$case;
	$receiver->forget;
	$receiver->answer('/late', { hang => 'request', status => $status });
	my ($uuid) = raise('late');
	$receiver->await('/late', 1);
	sql("SELECT whisperer.cancel('$uuid')");
	like(story($uuid), qr/^cancelled\|0/, "cancelled in flight ($status)");
	$receiver->release('/late');
	$node->poll_until('postgres', "SELECT concat_ws('|', state, retry_count, response_http_status) FROM whisperer.webhook_events WHERE uuid = '$uuid'", $expected);
	pass("... then $status: $expected");
}

# ---- Unsubscribed while in flight: cancelled, and not sent again; the history stays; the same can be subscribed again.
sql("SELECT whisperer.update_subscription($late, '{\"is_active\": true}')");
$receiver->forget;
$receiver->answer('/late', { hang => 'request', status => 500 });
my ($ended, @waiting) = raise('late', 3);
$receiver->await('/late', 1);
sql("SELECT whisperer.unsubscribe($late)");
$receiver->release('/late');
$node->wait_settled if sql("SELECT count(*) FROM whisperer.pending WHERE event_type = 'late'") > 0;
$node->poll_until('postgres', "SELECT string_agg(DISTINCT state, ',') FROM whisperer.webhook_events WHERE uuid IN ('$ended', '" . join("', '", @waiting) . "')", 'cancelled');
pass('unsubscribed: what was pending is cancelled');
is(sql("SELECT count(*) FROM whisperer.webhook_events WHERE subscription_id = $late"), '6', 'and the history stays');
my $again = subscribe('later');
cmp_ok($again, '>', $late, 'ids are not used again');
$receiver->answer('/late', { status => 200 });
$again = sql(qq{SELECT whisperer.subscribe('late', '@{[$receiver->url('/late')]}')});
cmp_ok($again, '>', $late, 'the same can be subscribed again');
my $before = $receiver->count(path => '/late');
raise('late');
$receiver->await('/late', $before + 1);
is($receiver->count(path => '/late'), $before + 1, 'and is sent to once');

unlike($node->log_since(0), qr/\b(ERROR|PANIC):(?!.*cannot be retried)/, 'no error in the log');
$node->stop;
done_testing();
