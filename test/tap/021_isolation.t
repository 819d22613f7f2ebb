# A subscriber that never answers and one that is down delay nobody: a third is served as if they were
# not there.  And while HTTP is in flight the worker holds no transaction and no snapshot.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Processes qw(looks_at);
use Whisperer::Receiver;

my $events = 1000;
my $receiver = Whisperer::Receiver->new(
	listen => [ { name => 'main' }, { name => 'silent', accept => 'hang' } ]);
# A time-out that a bad neighbour would cost others shows on any machine.
my $node = Whisperer::Node->started('main', settings => 'whisperer.request_timeout = 60');

$receiver->refusing_port('down');
$node->safe_psql(
	'postgres', qq{
	SELECT whisperer.register_event_type(t) FROM unnest('{alone,together}'::text[]) t;
	SELECT whisperer.subscribe('alone', '@{[$receiver->url('/alone')]}');
	SELECT whisperer.subscribe('together', '@{[$receiver->url('/silent', port => 'silent')]}');
	SELECT whisperer.subscribe('together', '@{[$receiver->url('/hangs')]}');
	SELECT whisperer.subscribe('together', '@{[$receiver->url('/down', port => 'down')]}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 3600}}');
	SELECT whisperer.subscribe('together', '@{[$receiver->url('/healthy')]}');
});
$receiver->answer('/hangs', { hang => 'body', body => 'half of it' });

sub seconds_for
{
	my ($type, $path) = @_;
	my $start = time();
	$node->safe_psql('postgres',
		"SELECT count(whisperer.deliver_event(jsonb_build_object('n', n), '$type')) FROM generate_series(1, $events) n");
	$receiver->await($path, $events, brief => 1);
	return time() - $start;
}

my $alone = seconds_for('alone', '/alone');
my $together = seconds_for('together', '/healthy');
note sprintf 'alone %.2f s, beside three bad ones %.2f s', $alone, $together;
# Four times as many rows are written.
cmp_ok($together, '<', 4 * $alone + 30, 'the healthy one is served as if the others were not there');
is(scalar($receiver->requests(path => '/healthy', brief => 1)), $events, 'each event once');
$node->poll_until('postgres',
	q{SELECT pending FROM whisperer.subscription_health WHERE target_url LIKE '%/healthy'}, '0');

# The one that is down has had its attempts, and comes again when nobody looks.
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.delivery WHERE due > now() + interval '30 min'}, $events);

# Requests are in flight to the silent ones: no transaction, no snapshot, no lock for it.
$receiver->await('/hangs', 1, brief => 1);
sub holds_nothing
{
	my ($what) = @_;
	# A process without a processor in one of its short transactions is seen in it many times; one that holds it, each time.
	my $seen;
	for (1 .. 5)
	{
		$seen = looks_at($node, 100)->{'whisperer delivery'};
		last if $seen->{held} <= 10;
	}
	note "$what: @{[ %$seen ]}";
	is($seen->{busy}, 100, "$what: requests are in flight at every look");
	cmp_ok($seen->{held}, '<=', 10, "$what: neither a transaction nor a snapshot nor a lock");
	return;
}
holds_nothing('receivers hang');
my $in_flight = $node->safe_psql('postgres',
	q{SELECT count(*) FROM whisperer.subscription_health WHERE in_flight > 0 AND target_url ~ '/(silent|hangs)$'});
is($in_flight, '2', 'subscription_health shows who is waited for');

# What failed says why, and is retried later.
ok( $node->poll_until('postgres', q{SELECT count(*) > 0 FROM whisperer.webhook_events
	WHERE target_url LIKE '%/down' AND state = 'pending' AND retry_count >= 1 AND error IS NOT NULL
	AND response_http_status IS NULL AND next_attempt_at > created_date}), 'the one that is down: failures with their reason');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM whisperer.webhook_events
		WHERE target_url !~ '/(alone|healthy)$' AND state <> 'pending'}),
	'0', 'nothing is given up so soon');

# The same while a token server hangs, and nobody else. What calls functions of users stays for a while when it has nothing to do.
$node->safe_psql(
	'postgres', qq{
	SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions;
	CREATE FUNCTION soon(retry_count integer, kwargs jsonb) RETURNS float8 LANGUAGE sql AS 'SELECT 0.01';
	CREATE FUNCTION called_back(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS '';
	SELECT whisperer.register_countdown('soon', 'soon');
	SELECT whisperer.register_event_type(t) FROM unnest('{with token,functions}'::text[]) t;
	SELECT whisperer.subscribe('functions', '@{[$receiver->url('/functions')]}', callback => 'called_back', retry_countdown_config => '{"choice": "soon"}');
	SELECT whisperer.subscribe('with token', '@{[$receiver->url('/with-token')]}', config => '{"request_timeout": 600, "auth": {"auth_type": "token",
		"url": "@{[$receiver->url('/login')]}", "username": "u", "password": "p"}}');
});
$receiver->release;
$node->wait_settled;
$receiver->behave(path => '/functions', per => 'webhook-id', steps => [ { status => 500 }, { status => 200 } ]);
$receiver->answer('/login', { hang => 'request' });
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{}'::jsonb, 'with token')});
$receiver->await('/login', 1);
my $seen;
for my $try (1 .. 10)
{
	$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{}'::jsonb, 'functions')});
	$receiver->await('/functions', 2 * $try);
	$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.job', '0');
	$seen = looks_at($node, 100);
	# On a slow machine one of them may have left before it was looked at, or have been without a processor in a transaction.
	last if !grep { ($seen->{"whisperer $_"}{looks} // 0) <= 10 } qw(callback countdown)
	  and !grep { $_->{held} > 10 } map { $seen->{"whisperer $_"} } qw(callback countdown launcher);
}
for my $kind (qw(callback countdown launcher))
{
	my $counts = $seen->{"whisperer $kind"};
	cmp_ok($counts->{looks}, '>', 10, "$kind: it is there");
	cmp_ok($counts->{held}, '<=', 10, "$kind: without work it holds neither a transaction nor a snapshot nor a lock");
}
holds_nothing('a token server hangs');
is($receiver->count(path => '/with-token'), 0, 'and it still does');

# Who waits for it all has the snapshot of his own statement, which no function can give back, and reads: he stands in nobody's way.
my $waiting = $node->background_psql('postgres');
my $session = $waiting->query_safe('SELECT pg_backend_pid()');
$waiting->query_until(qr/begun/, "\\echo begun\nSELECT whisperer.wait_until_settled('1 h');\n");
$node->poll_until('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $session AND wait_event_type = 'Extension'", 1);
is( $node->safe_psql('postgres', qq{SELECT backend_xid IS NULL, (SELECT string_agg(DISTINCT locktype || ' ' || mode, ', ') FROM pg_locks WHERE pid = $session)
		FROM pg_stat_activity WHERE pid = $session}),
	't|relation AccessShareLock, virtualxid ExclusiveLock', 'wait_until_settled() has no transaction id and only the locks of who reads');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($session, 30000)");
$waiting->{run}->finish;

# A shutdown does not wait for them.
my $start = time();
$node->stop('fast');
cmp_ok(time() - $start, '<', 30, 'a fast shutdown is fast');

done_testing();
