# PREPARE TRANSACTION in one session, COMMIT PREPARED in another: delivered, and at once; ROLLBACK
# PREPARED: not at all.  Also across a restart and a crash in between.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => 'whisperer.request_timeout = 600');
$node->safe_psql(
	'postgres', qq{
	CREATE TABLE item (id integer);
	SELECT whisperer.register_event_type('item');
	SELECT whisperer.attach('item', 'item');
	SELECT whisperer.subscribe('item', '@{[$receiver->url('/in')]}')});

my $ids = sub { join ' ', sort map { $_->{body} =~ /"id": (\d+)/ } $receiver->requests(path => '/in') };
my $prepare = sub { $node->safe_psql('postgres', "BEGIN; INSERT INTO item VALUES ($_[0]); PREPARE TRANSACTION 'p$_[0]'") };

$prepare->($_) for 1 .. 4;
$node->safe_psql('postgres', 'INSERT INTO item VALUES (9)');
$receiver->await('/in', 1);
$node->wait_settled;
is($ids->(), '9', 'nothing is sent for what is only prepared');

$node->safe_psql('postgres', q{COMMIT PREPARED 'p1'});
$receiver->await('/in', 2);
pass('COMMIT PREPARED in another session: sent at once, by no scan');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p2'});
$node->wait_settled;
is($ids->(), '1 9', 'ROLLBACK PREPARED: nothing');

$node->restart;
$node->safe_psql('postgres', q{COMMIT PREPARED 'p3'});
$receiver->await('/in', 3);
# What a crash finds sent and not yet recorded is sent again.
$node->wait_settled;
$node->crash_and_start;
$node->safe_psql('postgres', q{COMMIT PREPARED 'p4'});
$receiver->await('/in', 4);
$node->wait_settled;
is($ids->(), '1 3 4 9', 'prepared before a restart, or a crash, and committed after it');

# It counts when it is committed, whatever came in between; the worker adds it to the totals, which saves it.
my $counts = 'SELECT events, deliveries, attempts, delivered, cancelled FROM whisperer.statistics';
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.statistics_prepared', 0);
# What it has taken is added a moment later: in the same turn of its.
my $now = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
$node->poll_until('postgres', "SELECT last_activity > '$now' FROM whisperer.workers WHERE kind = 'delivery'");
$node->safe_psql('postgres', 'SELECT whisperer.reset_statistics()');
$prepare->($_) for 10 .. 13;
is($node->safe_psql('postgres', $counts), '0|0|0|0|0', 'what is prepared is not counted');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p13'});
$node->crash_and_start;
$node->safe_psql('postgres', "COMMIT PREPARED 'p$_'") for 10 .. 12;
is($node->safe_psql('postgres', 'SELECT events, deliveries FROM whisperer.statistics'), '3|3', 'once it is committed it is, at once');
$node->poll_until('postgres', $counts, '3|3|3|3|0');
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.statistics_prepared', 0);
$node->poll_until('postgres', $counts, '3|3|3|3|0');
pass('... once, when it has been added to the totals');
$node->safe_psql('postgres', q{BEGIN; INSERT INTO item VALUES (14); SET TRANSACTION READ ONLY; PREPARE TRANSACTION 'p14'});
$node->safe_psql('postgres', q{COMMIT PREPARED 'p14'});
$receiver->await('/in', 8);
pass('a transaction that is read-only at its end can be prepared all the same');
$node->wait_settled;

# From another database of the same server it cannot be committed; a worker's own database is woken.
$node->safe_psql('postgres', 'CREATE DATABASE second');
$node->create_whisperer('second');
$node->safe_psql(
	'second', qq{
	SELECT whisperer.register_event_type('item');
	SELECT whisperer.subscribe('item', '@{[$receiver->url('/second')]}');
	BEGIN;
	SELECT whisperer.deliver_event('{"id": 5}'::jsonb, 'item');
	PREPARE TRANSACTION 'p5';});
$node->safe_psql('second', q{COMMIT PREPARED 'p5'});
$receiver->await('/second', 1);
pass('in a second database');

# Two-phase commits that have nothing of ours in them wake nobody: a worker that had to look after each of others' would send
# nothing meanwhile. (For reasons of its own it may wake at any time: there is a window in which it does not.)
$node->safe_psql('postgres', 'CREATE TABLE others (id integer)');
my $active = q{SELECT last_activity FROM whisperer.workers WHERE kind = 'delivery' AND database = 'postgres'};
my ($slept, $arrived) = (0, 1);
for my $try (1 .. 10)
{
	my $before = $node->safe_psql('postgres', $active);
	$node->safe_psql('postgres', join '', map { "BEGIN; INSERT INTO others VALUES ($_); PREPARE TRANSACTION 'o$_'; COMMIT PREPARED 'o$_';\n" } 1 .. 5);
	$node->safe_psql('second', q{SELECT whisperer.deliver_event('{"id": 6}'::jsonb, 'item')});
	$receiver->await('/second', ++$arrived);
	$slept = $node->safe_psql('postgres', $active) eq $before;
	last if $slept;
}
ok($slept, 'others\' two-phase commits wake no worker');

# What is taken back, or changed, by a two-phase commit does.
$receiver->answer('/held', { status => 200 }, { hang => 'request' }, { status => 200 });
$node->safe_psql('postgres', qq{SELECT whisperer.register_event_type('held');
	SELECT whisperer.subscribe('held', '@{[$receiver->url('/held')]}', config => '{"max_in_flight": 1}');
	SELECT whisperer.deliver_event('{}'::jsonb, 'held')});
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'held' AND delivered}, 1);
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event(jsonb_build_object('id', n), 'held') FROM generate_series(1, 3) n});
$receiver->await('/held', 2);
my %flying = map { $_->{id} => 1 } $receiver->requests(path => '/held');
my ($cancelled) = grep { !$flying{$_} } split /\n/, $node->safe_psql('postgres', q{SELECT uuid FROM whisperer.pending WHERE event_type = 'held'});
$node->safe_psql('postgres', "BEGIN; SELECT whisperer.cancel('$cancelled'); PREPARE TRANSACTION 'cancel'");
$node->safe_psql('postgres', q{COMMIT PREPARED 'cancel'});
$receiver->release('/held');
$node->wait_settled;
is(scalar(grep { $_->{id} eq $cancelled } $receiver->requests(path => '/held')), 0, 'what was cancelled by one is not sent');
my $moved = $receiver->url('/moved');
$node->safe_psql('postgres', qq{BEGIN;
	SELECT whisperer.update_subscription(id, '{"target_url": "$moved"}') FROM whisperer.subscriptions WHERE event_type = 'held';
	PREPARE TRANSACTION 'move'});
$node->safe_psql('postgres', q{COMMIT PREPARED 'move'; SELECT whisperer.deliver_event('{}'::jsonb, 'held')});
$receiver->await('/moved', 1);
pass('a subscription changed by one is changed');

# ---- Synchronous deliveries: of new events, they are recorded in the transaction, as without two phases.
sub subscribe
{
	my ($type, $more) = @_;
	my $url = $receiver->url("/$type");
	$node->safe_psql('postgres', qq{SELECT whisperer.register_event_type('$type'); SELECT whisperer.subscribe('$type', '$url', $more)});
	return;
}
my $at_once = q{retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}'};
subscribe('now', $at_once);
subscribe('later', $at_once);
subscribe('undone', $at_once);
$receiver->answer('/later', { status => 500 }, { status => 200 });
$node->safe_psql('postgres', qq{BEGIN;
	SELECT whisperer.deliver_event('{}'::jsonb, type, _async => false) FROM unnest('{now,later}'::text[]) type;
	PREPARE TRANSACTION 'p6'});
$node->safe_psql('postgres', q{BEGIN; SELECT whisperer.deliver_event('{}'::jsonb, 'undone', _async => false); PREPARE TRANSACTION 'p7'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p7'});
is(join(' ', map { $receiver->count(path => "/$_") } qw(now later undone)), '1 1 1', 'synchronous: each is sent at once');
my $states = q{SELECT string_agg(concat_ws(' ', event_type, state, retry_count), ', ' ORDER BY event_type)
	FROM whisperer.webhook_events WHERE event_type IN ('now', 'later', 'undone')};
is($node->safe_psql('postgres', $states), '', 'and seen by nobody while it is prepared');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p6'});
ok($node->poll_until('postgres', $states, 'later delivered 2, now delivered 1'), 'the results come with COMMIT PREPARED, and so does what is to be sent again');
is(join(' ', map { $receiver->count(path => "/$_") } qw(now later undone)), '1 2 1', 'nothing else is');

# Their callbacks are called then.
$node->safe_psql('postgres', q{CREATE TABLE called (event_type text);
	CREATE FUNCTION note(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void
		LANGUAGE sql AS 'INSERT INTO public.called VALUES (event_type)'});
subscribe('calls', q{callback => 'note'});
$node->safe_psql('postgres', q{BEGIN; SELECT whisperer.deliver_event('{}'::jsonb, 'calls', _async => false); PREPARE TRANSACTION 'c'});
$node->safe_psql('postgres', q{COMMIT PREPARED 'c'});
ok($node->poll_until('postgres', 'SELECT string_agg(event_type, $$ $$) FROM called', 'calls'), 'and the callback is called, by no scan');

# What is sent again is pending for everybody else until that commits: the worker would send it, too.
subscribe('again', q{config => '{"max_attempts": 1}'});
$receiver->answer('/again', { status => 500, times => 2 }, { status => 200 });
my $uuid = $node->safe_psql('postgres', q{SELECT (whisperer.deliver_event('{}'::jsonb, 'again'))[1]});
my $state = "SELECT state || retry_count FROM whisperer.webhook_events WHERE uuid = '$uuid'";
$node->poll_until('postgres', $state, 'failed1');
my $again = "SELECT whisperer.deliver_event(NULL, 'again', event_uuid => '$uuid', _async => false)";
my ($status, $output, $errors) = $node->psql('postgres', "\\set VERBOSITY verbose\nBEGIN; $again; PREPARE TRANSACTION 'p8'");
like($errors, qr/ERROR:  0A000: .*HINT:  .*_async => true/s, 'sent again synchronously: not to be prepared');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_prepared_xacts; $state"), "0\nfailed1", 'nothing of it stays');
$node->safe_psql('postgres', "BEGIN; SAVEPOINT s; $again; ROLLBACK TO s; INSERT INTO item VALUES (8); PREPARE TRANSACTION 'p8'");
$node->safe_psql('postgres', q{COMMIT PREPARED 'p8'});
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'item' AND delivered}, 9);
pass('after it was rolled back to a savepoint it may');

done_testing();
