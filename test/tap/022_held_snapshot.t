# A transaction held open elsewhere with a snapshot (so that vacuum removes nothing) makes deliveries no
# slower; and a session that called cancel() and stays in its transaction holds up nobody else's results.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $events = $ENV{WHISPERER_HELD_DELIVERIES} || 20000;
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "max_wal_size = 4GB\nautovacuum_naptime = 1s\nwhisperer.request_timeout = 600");

$node->safe_psql(
	'postgres', qq{
	SELECT whisperer.register_event_type('numbered');
	SELECT whisperer.subscribe('numbered', '@{[$receiver->url('/in')]}');
	SELECT whisperer.register_event_type('cancelled');
	SELECT whisperer.subscribe('cancelled', '@{[$receiver->url('/cancelled')]}');
});

# What is read of the queue's indexes while so many are delivered, dead entries too. (That they are recorded is counted in shared
# memory: no question is put to the tables.)
my $reads = q{SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'delivery'};
my $delivered = 0;
sub reads_for_deliveries
{
	$receiver->forget;
	my ($start, $before) = (time(), $node->safe_psql('postgres', $reads));
	$node->safe_psql('postgres',
		"SELECT count(whisperer.deliver_event(jsonb_build_object('n', n), 'numbered')) FROM generate_series(1, $events) n");
	$receiver->await('/in', $events, brief => 1);
	$delivered += $events;
	$node->poll_until('postgres', 'SELECT delivered FROM whisperer.statistics', $delivered);
	$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'idle');
	# What a process has read is seen after it is idle: that it is sent, and that it is recorded, each by an index.
	$node->poll_until('postgres', "SELECT ($reads) >= @{[ $before + 2 * $events ]}");
	my $count = $node->safe_psql('postgres', $reads) - $before;
	note sprintf '%d deliveries: %.2f s, %d entries of indexes read', $events, time() - $start, $count;
	return $count;
}

my $free = reads_for_deliveries();
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$holder->query_safe('SELECT count(*) FROM whisperer.webhook_events');
# The first fills the tables with rows that cannot be removed; the second has to work over them. Time would not tell: what a fetch
# loses by walking over so many is little beside a commit.
reads_for_deliveries();
my $held = reads_for_deliveries();
$holder->query_safe('COMMIT');
$holder->quit;
cmp_ok($held, '<', 2 * $free, 'while a snapshot is held nothing more is read');

# Twenty in flight; two of them are cancelled in a transaction that stays open.  (A subscription's
# window opens as its receiver proves itself: first some that it answers.)
my $raise = sub {
	$node->safe_psql('postgres',
		"SELECT count(whisperer.deliver_event(jsonb_build_object('n', n), 'cancelled')) FROM generate_series(1, $_[0]) n");
};
$raise->(200);
$node->wait_settled;
$receiver->forget;
$receiver->answer('/cancelled', { hang => 'request' });
$raise->(20);
my @sent = map { $_->{id} } $receiver->await('/cancelled', 20);
my $canceller = $node->background_psql('postgres');
$canceller->query_safe('BEGIN');
$canceller->query_safe("SELECT whisperer.cancel('$sent[0]')");
$canceller->query_safe("SELECT whisperer.cancel('$sent[1]')");
$receiver->answer('/cancelled', { status => 200 });
$receiver->release;
my $states = q{SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM whisperer.webhook_events WHERE uuid };
ok($node->poll_until('postgres', "$states NOT IN ('$sent[0]', '$sent[1]') AND event_type = 'cancelled'", 'delivered'),
	q{the others' results are recorded while the transaction is open});
is($node->safe_psql('postgres', "$states IN ('$sent[0]', '$sent[1]')"), 'pending', 'the two wait for it');
# Other subscriptions are served, too.
my $before = $receiver->count(path => '/in');
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{"n": 0}'::jsonb, 'numbered')});
$receiver->await('/in', $before + 1, brief => 1);

$canceller->query_safe('COMMIT');
$canceller->quit;
ok($node->poll_until('postgres', "$states IN ('$sent[0]', '$sent[1]')", 'delivered'),
	'what was in flight when it was cancelled, and answered with 2xx, is delivered after all');

# The same, but the cancelling transaction rolls back.
$receiver->forget;
$receiver->answer('/cancelled', { hang => 'request' });
my $uuid = $node->safe_psql('postgres', q{SELECT (whisperer.deliver_event('{}'::jsonb, 'cancelled'))[1]});
$receiver->await('/cancelled', 1);
$canceller = $node->background_psql('postgres');
$canceller->query_safe('BEGIN');
$canceller->query_safe("SELECT whisperer.cancel('$uuid')");
$receiver->answer('/cancelled', { status => 200 });
$receiver->release;
$canceller->query_safe('ROLLBACK');
$canceller->quit;
$node->wait_settled;
is($node->safe_psql('postgres', "$states IN ('$uuid')"), 'delivered', 'a cancel that rolls back changes nothing');
is(scalar($receiver->requests(path => '/cancelled')), 1, 'and it is not sent again');

# Cancelled before it was sent: it is not sent.
$node->safe_psql('postgres', q{
	SELECT whisperer.update_subscription(id, '{"is_active": false}') FROM whisperer.subscriptions WHERE event_type = 'cancelled'});
is($node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{}'::jsonb, 'cancelled')}), '{}', 'paused: no delivery');

done_testing();
