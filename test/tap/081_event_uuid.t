# deliver_event(…, event_uuid => …): a recorded delivery is sent again, with the body it had (parity row 29).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;

use Whisperer::Node;
use Whisperer::Receiver;

my $node = Whisperer::Node->started('main', settings => 'whisperer.request_timeout = 600');
my $receiver = Whisperer::Receiver->new;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub sqlstate
{
	my ($statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement");
	return $err =~ /ERROR:\s+(\w{5}): / ? $1 : "no error: $out";
}

# One delivery of a subscription of its own: (uuid, subscription).
sub delivery
{
	my ($path, $more) = @_;
	my $type = substr($path, 1);
	my $url = $receiver->url($path);
	my $id = sql("SELECT whisperer.register_event_type('$type');
		SELECT whisperer.subscribe('$type', '$url', $more)") =~ s/^\s+//r;
	sql("SELECT whisperer.deliver_event('{\"at\": \"$path\"}', '$type')");
	return (sql("SELECT uuid FROM whisperer.webhook_events WHERE event_type = '$type'"), $id);
}

sub state { return sql("SELECT state, retry_count FROM whisperer.webhook_events WHERE uuid = '$_[0]'") }
# Until that is so, and the worker has no more to do with it: what it has recorded is noted as in flight for a moment longer.
sub until_state
{
	$node->poll_until('postgres', "SELECT state || '|' || retry_count FROM whisperer.webhook_events WHERE uuid = '$_[0]'
		AND uuid NOT IN (SELECT uuid FROM whisperer.in_flight_list())", $_[1]);
	return $_[1];
}

my $once = q{config => '{"max_attempts": 1}'};
my $hour = q{retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 3600}}'};

# ---- Failed ones, both ways.
$receiver->answer('/async', {status => 500, times => 1}, {status => 200});
my ($async) = delivery('/async', $once);
until_state($async, 'failed|1');
is(sql("SELECT whisperer.deliver_event(NULL, 'async', event_uuid => '$async')"), "{$async}", 'asynchronously: its uuid');
is(until_state($async, 'delivered|2'), 'delivered|2', 'it is sent again');
my @requests = $receiver->await('/async', 2);
is($requests[1]{id}, $requests[0]{id}, 'with the same id');
is($requests[1]{body}, $requests[0]{body}, 'and its recorded body');

$receiver->answer('/now', {status => 500, times => 1}, {status => 200});
my ($now) = delivery('/now', $once);
until_state($now, 'failed|1');
is( sql("BEGIN; SELECT whisperer.deliver_event('{\"not\": \"used\"}'::jsonb, 'now', event_uuid => '$now', _async => false);
	SELECT state, retry_count FROM whisperer.webhook_events WHERE uuid = '$now'; COMMIT"),
	"{$now}\ndelivered|2", 'now: seen by the same transaction');
@requests = $receiver->requests(path => '/now');
is(scalar @requests, 2, 'one request');
is($requests[1]{body}, $requests[0]{body}, 'with the recorded body; the instance is not used');

# ---- A pending one, which the worker would send in an hour.
$receiver->answer('/waits', {status => 500, times => 2}, {status => 200});
my ($waits) = delivery('/waits', $hour);
until_state($waits, 'pending|1');
sql("SELECT whisperer.deliver_event(NULL, 'waits', event_uuid => '$waits', _async => false)");
is(state($waits), 'pending|2', 'a pending one that fails again');
is(sql("SELECT next_attempt_at > now() + '50 min' FROM whisperer.pending WHERE uuid = '$waits'"), 't', 'waits for its countdown');
# The worker takes it over from the session, with its row locked.
$node->poll_until('postgres', "SELECT due IS NOT NULL FROM whisperer.delivery WHERE uuid = '$waits'");
sql("SELECT whisperer.deliver_event(NULL, 'waits', event_uuid => '$waits', _async => false)");
is(state($waits), 'delivered|3', 'and is delivered');
is(scalar $receiver->requests(path => '/waits'), 3, 'in three requests');

# ---- One that the worker has read, and holds behind another that hangs; the session sends it first. The worker learns.
$receiver->answer('/ahead', {status => 200}, {hang => 'request'}, {status => 500}, {status => 200});
my ($first, $ahead) = delivery('/ahead', qq{config => '{"max_in_flight": 1}', $hour});
$node->wait_settled;
sql(q{SELECT whisperer.deliver_event(jsonb_build_object('n', n), 'ahead') FROM generate_series(1, 3) n});
$receiver->await('/ahead', 2);
my %flying = map { $_->{id} => 1 } $receiver->requests(path => '/ahead');
my ($mine) = grep { !$flying{$_} } split /\n/, sql(q{SELECT uuid FROM whisperer.pending WHERE event_type = 'ahead' ORDER BY uuid});
my ($hanging) = grep { $flying{$_} } split /\n/, sql(q{SELECT uuid FROM whisperer.pending WHERE event_type = 'ahead'});

# What hangs is being sent by the worker.
is(sqlstate("SELECT whisperer.deliver_event(NULL, 'ahead', event_uuid => '$hanging')"), 'WH008', 'in flight at the worker');
is(sqlstate("SELECT whisperer.deliver_event(NULL, 'ahead', event_uuid => '$hanging', _async => false)"), 'WH008', 'both ways');

my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT whisperer.deliver_event(NULL, 'ahead', event_uuid => '$mine', _async => false)");
is(scalar(grep { $_->{id} eq $mine } $receiver->requests(path => '/ahead')), 1, 'the session has sent one that the worker holds');
is(sqlstate("SELECT whisperer.deliver_event(NULL, 'ahead', event_uuid => '$mine', _async => false)"), 'WH008', 'which is nobody else\'s now');
is(sqlstate("SELECT whisperer.deliver_event(NULL, 'ahead', event_uuid => '$mine')"), 'WH008', 'asynchronously neither');
$receiver->release('/ahead');
# The third one passes it: the worker had its turn at the one that is claimed.
$node->poll_until('postgres', q{SELECT count(*) = 3 FROM whisperer.webhook_events WHERE event_type = 'ahead' AND delivered});
is(scalar(grep { $_->{id} eq $mine } $receiver->requests(path => '/ahead')), 1, 'the worker left it alone');
$holder->query_safe('COMMIT');
is(state($mine), 'pending|1', 'its failure is recorded at the commit');
sql(q{SELECT whisperer.deliver_event('{"n": 4}', 'ahead')});
$node->poll_until('postgres', q{SELECT count(*) = 4 FROM whisperer.webhook_events WHERE event_type = 'ahead' AND delivered});
is(scalar(grep { $_->{id} eq $mine } $receiver->requests(path => '/ahead')), 1, 'and the worker waits for its countdown');

# ---- The same, and the worker's turn comes only after the commit: what it holds in memory is out of date then.
$receiver->answer('/stale', {status => 200}, {hang => 'request'}, {status => 500}, {status => 200});
delivery('/stale', qq{config => '{"max_in_flight": 1}', $hour});
$node->poll_until('postgres', q{SELECT delivered FROM whisperer.webhook_events WHERE event_type = 'stale'});
sql(q{SELECT whisperer.deliver_event(jsonb_build_object('n', n), 'stale') FROM generate_series(1, 3) n});
$receiver->await('/stale', 2);
%flying = map { $_->{id} => 1 } $receiver->requests(path => '/stale');
my ($stale) = grep { !$flying{$_} } split /\n/, sql(q{SELECT uuid FROM whisperer.pending WHERE event_type = 'stale' ORDER BY uuid});
sql("SELECT whisperer.deliver_event(NULL, 'stale', event_uuid => '$stale', _async => false)");
is(state($stale), 'pending|1', 'sent by the session');
$receiver->release('/stale');
$node->poll_until('postgres', q{SELECT count(*) = 3 FROM whisperer.webhook_events WHERE event_type = 'stale' AND delivered});
is(scalar(grep { $_->{id} eq $stale } $receiver->requests(path => '/stale')), 1, 'and not by the worker before its time');

# ---- Rolled back: the worker sends it after all.
$receiver->answer('/back', {status => 200}, {hang => 'request'}, {status => 200});
delivery('/back', q{config => '{"max_in_flight": 1}'});
$node->poll_until('postgres', q{SELECT count(*) = 1 FROM whisperer.webhook_events WHERE event_type = 'back' AND delivered});
sql(q{SELECT whisperer.deliver_event(jsonb_build_object('n', n), 'back') FROM generate_series(1, 2) n});
$receiver->await('/back', 2);
%flying = map { $_->{id} => 1 } $receiver->requests(path => '/back');
my ($back) = grep { !$flying{$_} } split /\n/, sql(q{SELECT uuid FROM whisperer.pending WHERE event_type = 'back'});
$holder->query_safe("BEGIN; SELECT whisperer.deliver_event(NULL, 'back', event_uuid => '$back', _async => false)");
$receiver->release('/back');
$node->poll_until('postgres', q{SELECT count(*) = 2 FROM whisperer.webhook_events WHERE event_type = 'back' AND delivered});
$holder->query_safe('ROLLBACK');
is(until_state($back, 'delivered|1'), 'delivered|1', 'what was rolled back is sent by the worker');
is(scalar(grep { $_->{id} eq $back } $receiver->requests(path => '/back')), 2, 'for the second time');
$holder->quit;

# ---- Errors.
is(sqlstate("SELECT whisperer.deliver_event(NULL, 'now', event_uuid => '$now')"), 'WH005', 'delivered');
is(sqlstate("SELECT whisperer.deliver_event(NULL, 'now', event_uuid => '$now', _async => false)"), 'WH005', 'both ways');
is(sqlstate("SELECT whisperer.deliver_event(NULL, 'async', event_uuid => '$mine')"), '22023', 'another type');
is(sqlstate(q{SELECT whisperer.deliver_event(NULL, 'now', event_uuid => '00000000-0000-0000-0000-000000000000')}),
	'WH003', 'unknown');
is(sqlstate(q{SELECT whisperer.deliver_event(NULL, 'now')}), '22023', 'no instance, and no uuid');
is(sqlstate("BEGIN READ ONLY; SELECT whisperer.deliver_event(NULL, 'ahead', event_uuid => '$mine')"), '25006', 'read-only');
sql(q{SELECT whisperer.update_subscription(id, '{"is_active": false}') FROM whisperer.subscriptions WHERE event_type = 'ahead'});
is(sqlstate("SELECT whisperer.deliver_event(NULL, 'ahead', event_uuid => '$mine', _async => false)"), '55000', 'a paused subscription');

# Somebody else's answers as an unknown one; one's own does not, and needs no superuser.
sql(q{CREATE ROLE other; SELECT whisperer.grant_access('other', 'subscribe')});
for my $async ('true', 'false')
{
	is(sqlstate("SET ROLE other; SELECT whisperer.deliver_event(NULL, 'now', event_uuid => '$now', _async => $async)"),
		'WH003', "somebody else's, _async => $async");
}
$receiver->answer('/own', {status => 500}, {status => 200});
my $own = $receiver->url('/own');
sql(qq{SELECT whisperer.register_event_type('own'); SET ROLE other; SELECT whisperer.subscribe('own', '$own', $once)});
my $of_other = sql(q{SET ROLE other; SELECT (whisperer.deliver_event('{}', 'own', _async => false))[1]});
is(state($of_other), 'failed|1', 'a synchronous delivery by a role with no more than the grant');
sql("SET ROLE other; SELECT whisperer.deliver_event(NULL, 'own', event_uuid => '$of_other', _async => false)");
is(state($of_other), 'delivered|2', 'and again');

# Locked by a session that keeps a cancel() open.
sql(q{SELECT whisperer.update_subscription(id, '{"is_active": true}') FROM whisperer.subscriptions WHERE event_type = 'ahead'});
my $canceller = $node->background_psql('postgres');
$canceller->query_safe("BEGIN; SELECT whisperer.cancel('$mine')");
is(sqlstate("SELECT whisperer.deliver_event(NULL, 'ahead', event_uuid => '$mine', _async => false)"), 'WH008', 'locked by another transaction');
$canceller->query_safe('ROLLBACK');
$canceller->quit;

$node->stop;
done_testing();
