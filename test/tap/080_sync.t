# Synchronous delivery (parity row 28): deliver_event(…, _async => false) makes the requests before it returns, inside the
# caller's transaction, and what comes of them belongs to that transaction.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use Whisperer::Node;
use Whisperer::Receiver;
use Whisperer::Session;

my $node = Whisperer::Node->started('main');
my $receiver = Whisperer::Receiver->new;

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Both kinds of error: (SQLSTATE, message).
sub sqlstate
{
	my ($statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement");
	return $err =~ /(?:ERROR|FATAL):\s+(\w{5}): (.*)/ ? ($1, $err) : ('', $err);
}

sub subscribe
{
	my ($type, $path, $more) = @_;
	my $url = $receiver->url($path);
	sql("SELECT whisperer.register_event_type('$type')
		WHERE NOT EXISTS (SELECT FROM whisperer.event_types WHERE event_type = '$type')");
	return sql("SELECT whisperer.subscribe('$type', '$url'" . ($more ? ", $more" : '') . ')');
}

# ---- Delivered: visible to the same transaction, sent once.
subscribe('ok', '/ok1', q{secret_key => 'secret'});
subscribe('ok', '/ok2');
is( sql(q{BEGIN;
	SELECT cardinality(whisperer.deliver_event('{"n": 1}', 'ok', _async => false));
	SELECT count(*), min(state), min(response_http_status), min(retry_count) FROM whisperer.webhook_events;
	SELECT delivered FROM whisperer.statistics;
	COMMIT;
	SELECT delivered, attempts FROM whisperer.statistics}),
	"2\n2|delivered|200|1\n0\n2|2", 'two are delivered, seen by their transaction, and counted at its commit');
is(scalar $receiver->requests(path => $_), 1, "$_ got one request") for ('/ok1', '/ok2');
is(($receiver->verify('/ok1', 'secret'))[0][1], 'ok', 'its signatures verify');
sql(q{SELECT whisperer.deliver_event('{"n": 2}', 'ok')});
$node->wait_settled;
is(scalar $receiver->requests(path => '/ok1'), 2, 'the worker sends what is raised later, and nothing twice');
is(sql(q{SELECT whisperer.deliver_event('{}', 'ok', _async => false, config_filter => '{"none": 1}')}), '{}', 'nobody asked');

# ---- A large body, with a row.
sql(q{SELECT whisperer.deliver_event(jsonb_build_object('text', repeat('0123456789', 30000)), 'ok', _async => false)});
is(length((($receiver->requests(path => '/ok1'))[-1])->{body}) > 300_000, 1, 'a large body');

# ---- Rolled back: the receiver has it, the tables do not.
is( sql(q{BEGIN; SELECT cardinality(whisperer.deliver_event('{"n": 3}', 'ok', _async => false)); ROLLBACK;
	SELECT count(*) FROM whisperer.webhook_events WHERE request_payload -> 'payload' ->> 'n' = '3'}),
	"2\n0", 'rolled back');
is( sql(q{DO $$ BEGIN
		BEGIN PERFORM whisperer.deliver_event('{"n": 4}', 'ok', _async => false); RAISE 'no';
		EXCEPTION WHEN raise_exception THEN NULL; END;
		PERFORM whisperer.deliver_event('{"n": 5}', 'ok', _async => false);
	END $$;
	SELECT string_agg(DISTINCT request_payload -> 'payload' ->> 'n', ',') FROM whisperer.webhook_events
	WHERE request_payload -> 'payload' ->> 'n' IN ('4', '5')}), '5', 'a subtransaction takes its own with it');

# ---- Several at once: each hangs until all are there.
subscribe('slow', "/slow$_") for 1 .. 3;
$receiver->answer("/slow$_", {hang => 'request'}) for 1 .. 3;
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_until(qr/begun/, "\\echo begun\nSELECT whisperer.deliver_event('{}', 'slow', _async => false);\n\\echo ended\n");
$receiver->await("/slow$_", 1) for 1 .. 3;
pass('three requests are in flight at once');
$receiver->release("/slow$_") for 1 .. 3;
$session->quit;
is(sql(q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'slow' AND delivered}), 3, 'and delivered');

# ---- Failed: retried by the worker when, and only when, the transaction commits; not before its time.
subscribe('again', '/again', q{retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 2}}'});
$receiver->answer('/again', {status => 500, body => 'broken'}, {status => 200});
is( sql(q{BEGIN; SELECT cardinality(whisperer.deliver_event('{}', 'again', _async => false));
	SELECT state, retry_count, response_http_status, response_content,
		next_attempt_at BETWEEN request_datetimes[1] + interval '2 s' AND clock_timestamp() + interval '2 s'
	FROM whisperer.webhook_events WHERE event_type = 'again'; COMMIT}),
	"1\npending|1|500|broken|t", 'a failed attempt');
my @again = $receiver->await('/again', 2);
cmp_ok($again[1]{arrived} - $again[0]{arrived}, '>=', 1.9, 'the next one waited for the countdown');
is($again[1]{id}, $again[0]{id}, 'of the same delivery');
is($again[1]{body}, $again[0]{body}, 'with the same body');
$node->wait_settled;
is(sql(q{SELECT state, retry_count, cardinality(request_datetimes) FROM whisperer.webhook_events WHERE event_type = 'again'}),
	'delivered|2|2', 'and is recorded');

subscribe('last', '/last', q{config => '{"max_attempts": 1}'});
$receiver->answer('/last', {status => 500});
is( sql(q{BEGIN; SELECT cardinality(whisperer.deliver_event('{}', 'last', _async => false));
	SELECT state, retry_count, error FROM whisperer.failed WHERE event_type = 'last'; COMMIT;
	SELECT failed FROM whisperer.statistics}),
	"1\nfailed|1|the receiver answered with status 500\n1", 'the last attempt');

# ---- The rules of every attempt: addresses, time-outs.
sql(q{SELECT whisperer.register_event_type('rules');
	SELECT whisperer.subscribe('rules', 'http://169.254.169.254/meta', config => '{"max_attempts": 1}')});
sql(q{SELECT whisperer.deliver_event('{}', 'rules', _async => false)});
like(sql(q{SELECT error FROM whisperer.failed WHERE event_type = 'rules'}), qr/169\.254\.169\.254.*whisperer\.allowed_networks/s,
	'an address that may not be dialled');
subscribe('limit', '/limit', q{config => '{"max_attempts": 1, "request_timeout": 0.3}'});
$receiver->answer('/limit', {hang => 'request'});
sql(q{SELECT whisperer.deliver_event('{}', 'limit', _async => false)});
like(sql(q{SELECT error FROM whisperer.failed WHERE event_type = 'limit'}), qr/^no response within 0.3 s/, 'the time-out holds');
$receiver->release('/limit');

# ---- Callbacks are called after the commit, and only then.
my $heard = $receiver->url('/heard');
sql(qq{CREATE TABLE heard (n text, attempt int, status int);
	CREATE FUNCTION hear(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		'INSERT INTO public.heard SELECT instance ->> ''n'', (response ->> ''attempt'')::int, (response ->> ''status'')::int';
	SELECT whisperer.register_event_type('heard');
	SELECT whisperer.subscribe('heard', '$heard', callback => 'public.hear')});
sql(q{BEGIN; SELECT whisperer.deliver_event('{"n": 1}', 'heard', _async => false); ROLLBACK;
	SELECT whisperer.deliver_event('{"n": 2}', 'heard', _async => false)});
$node->poll_until('postgres', q{SELECT string_agg(heard::text, ' ') = '(2,1,200)' FROM heard});
pass('a callback');

# ---- 410 and Retry-After.
my $gone = subscribe('gone', '/gone');
$receiver->answer('/gone', {status => 410});
is( sql(qq{BEGIN; SELECT cardinality(whisperer.deliver_event('{}', 'gone', _async => false));
	SELECT is_active, inactive_reason ~ '410' FROM whisperer.subscriptions WHERE id = $gone;
	SELECT state FROM whisperer.webhook_events WHERE event_type = 'gone';
	SELECT cardinality(whisperer.deliver_event('{}', 'gone', _async => false)); COMMIT}),
	"1\nf|t\nfailed\n0", '410 deactivates within the transaction');

my $busy = subscribe('busy', '/busy');
$receiver->answer('/busy', {status => 503, headers => [['Retry-After', '3600']]});
sql(q{SELECT whisperer.deliver_event('{"n": 1}', 'busy', _async => false)});
$node->poll_until('postgres', qq{SELECT paused_until > now() + '50 min' AND consecutive_failures = 1 AND last_status = 503
	FROM whisperer.subscription_health WHERE subscription_id = $busy});
pass('the worker learns of a pause');
is( sql(q{SELECT cardinality(whisperer.deliver_event('{"n": 2}', 'busy', _async => false));
	SELECT state, retry_count FROM whisperer.webhook_events WHERE event_type = 'busy' ORDER BY created_date}),
	"1\npending|1\npending|0", 'which also holds for a synchronous delivery');
sql(q{SELECT whisperer.deliver_event('{"n": 3}', 'busy')});
sql(q{SELECT whisperer.deliver_event('{"n": 6}', 'ok')});
$receiver->await('/ok1', 7);
is(scalar $receiver->requests(path => '/busy'), 1, 'nothing more was sent to it');

# ---- Whoever keeps the transaction open does not hold the worker up.
my $held = subscribe('held', '/held', q{retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}'});
$receiver->answer('/held', {status => 500, times => 2}, {status => 200});
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT whisperer.deliver_event('{"n": 1}', 'held', _async => false)});
sql(q{SELECT whisperer.deliver_event('{"n": 2}', 'held')});
my @held = $receiver->await('/held', 3);
$node->poll_until('postgres', q{SELECT state = 'delivered' FROM whisperer.webhook_events WHERE event_type = 'held'});
is(sql(q{SELECT request_payload -> 'payload' ->> 'n', retry_count FROM whisperer.webhook_events WHERE event_type = 'held'}),
	'2|2', 'the other delivery went its way');
$holder->query_safe('COMMIT');
$node->poll_until('postgres', q{SELECT count(*) = 2 AND bool_and(delivered) FROM whisperer.webhook_events WHERE event_type = 'held'});
is(scalar $receiver->requests(path => '/held'), 4, 'and after the commit its own');
$holder->quit;

# ---- Interrupts act at once: while a receiver hangs, in a server that goes on.
subscribe('stuck', '/stuck', q{config => '{"request_timeout": 600}'});
$receiver->answer('/stuck', {hang => 'request', times => 100});
# To a path of its own: the request may be seen by the receiver only when all is over.
subscribe('late', '/late', q{config => '{"request_timeout": 600}'});
$receiver->answer('/late', {hang => 'request', times => 100});
my $began = time;
my ($state) = sqlstate(q{SET statement_timeout = '300ms'; SELECT whisperer.deliver_event('{}', 'late', _async => false)});
my $took = time - $began;
is($state, '57014', 'statement_timeout');
cmp_ok($took, '<', 60, "acts ($took s with the start of psql)");

for my $case (['pg_cancel_backend', qr/57014/], ['pg_terminate_backend', qr/57P01/])
{
	my ($function, $expected) = @$case;
	my $victim = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $victim->query_safe('SELECT pg_backend_pid()');
	my $before = scalar $receiver->requests(path => '/stuck', brief => 1);
	$victim->query_until(qr/begun/,
		"\\set VERBOSITY verbose\n\\echo begun\nSELECT whisperer.deliver_event('{}', 'stuck', _async => false);\n");
	$receiver->await('/stuck', $before + 1);
	my $at = time;
	sql("SELECT $function($pid)");
	$node->poll_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid AND state = 'active')");
	my $after = time - $at;
	cmp_ok($after, '<', 60, "$function acts ($after s with two starts of psql)");
	if ($function eq 'pg_cancel_backend')
	{
		is($victim->query(q{SELECT cardinality(whisperer.deliver_event('{}', 'ok', _async => false))}), 2,
			'the session sends again afterwards');
	}
	$victim->{run}->finish if $function eq 'pg_terminate_backend';
	$victim->quit if $function eq 'pg_cancel_backend';
}
is(sql(q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type IN ('late', 'stuck')}), 0, 'nothing of it stays');
$receiver->release($_) for '/late', '/stuck';

# ---- A session that has sent before sends the next one by the settings of now.
subscribe('settings', '/settings');
my $sender = Whisperer::Session->new($node, 'settings');
my $send = q{SELECT cardinality(whisperer.deliver_event('{}', 'settings', _async => false))};
is($sender->run($send), '1', 'a session sends');
$receiver->await('/settings', 1);
my $allowed = sql('SHOW whisperer.allowed_networks');
sql(q{ALTER SYSTEM SET whisperer.allowed_networks = ''});
sql('SELECT pg_reload_conf()');
my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
1 while $sender->run('SHOW whisperer.allowed_networks') ne '' && time() < $end;
$sender->run($send);
is($receiver->count(path => '/settings'), 1, 'not to where it may no longer go');
like(sql(q{SELECT error FROM whisperer.webhook_events WHERE event_type = 'settings' AND state = 'pending'}), qr/not allowed/, 'which it says');
sql("ALTER SYSTEM SET whisperer.allowed_networks = '$allowed'");
sql('SELECT pg_reload_conf()');
$sender->quit;
# The worker may still be in an attempt by the settings of before.
$node->await(sub {
	$node->psql('postgres', q{SELECT whisperer.retry(uuid) FROM whisperer.pending WHERE event_type = 'settings'}); # refused while it is sent
	return $receiver->count(path => '/settings') >= 2;
}, 'the delivery that is allowed again');

# ---- Refusals.
is((sqlstate(q{SET whisperer.enabled = off; SELECT whisperer.deliver_event('{}', 'ok', _async => false)}))[0], '55000',
	'not when whisperer.enabled is off');
my ($copy, $text) = sqlstate(q{BEGIN; UPDATE whisperer.home SET database_oid = 1;
	SELECT whisperer.deliver_event('{}', 'ok', _async => false)});
is($copy, '55000', 'not in a copy');
like($text, qr/HINT:.*whisperer\.resume/, 'with a hint');
is((sqlstate(q{BEGIN READ ONLY; SELECT whisperer.deliver_event('{}', 'ok', _async => false)}))[0], '25006', 'not when read-only');

$node->poll_until('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND wait_event_type = 'Lock'}, 0);
pass('nobody waits');
subscribe('single', '/single');
$node->stop;

# ---- In single-user mode, where there is no postmaster and no worker, it sends all the same.
my ($standard, $trouble);
IPC::Run::run([ 'postgres', '--single', '-D', $node->data_dir, 'postgres' ],
	'<', \qq{SELECT whisperer.deliver_event('{}'::text, 'single', _async => false)\n}, '>', \$standard, '2>', \$trouble);
unlike($trouble, qr/ERROR|FATAL|PANIC/, 'single-user mode: no error');
is($receiver->count(path => '/single'), 1, '... and it is sent');
$node->start;
is(sql(q{SELECT state FROM whisperer.webhook_events WHERE event_type = 'single'}), 'delivered', '... and recorded');
$node->stop;
done_testing();
