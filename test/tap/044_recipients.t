# Each session keeps who gets an event. Whatever changes that, wherever and however, the next event goes to whom it must.
# Nothing is sent here: the deliveries written tell who was meant.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Session;

my $node = Whisperer::Node->started('main', settings => 'whisperer.enabled = off');

# The one who raises events, and the one who changes things.
my ($session, $other) = map { Whisperer::Session->new($node, $_) } qw(raises changes);

# An event raised in the session is for these, by the last part of their URLs. Twice: what is read is kept then.
sub is_for
{
	my ($wanted, $name, %options) = @_;
	my $filter = $options{filter} // 'NULL';
	my $got = join '; ', map { $session->run("SELECT coalesce(string_agg(substring(s.target_url FROM '[^/]+\$'), ' ' ORDER BY s.target_url), '')
		FROM unnest(whisperer.deliver_event('{\"id\": 1}'::jsonb, 'item', config_filter => $filter)) AS u (uuid)
		JOIN whisperer.subscription s ON s.id = pg_temp.subscription_of(u.uuid)") } 1, 2;
	is($got, "$wanted; $wanted", $name);
	return;
}

# As a function, so that it sees what deliver_event() has written in the same statement.
$session->run(q{CREATE FUNCTION pg_temp.subscription_of(uuid) RETURNS bigint LANGUAGE plpgsql VOLATILE AS
	'BEGIN RETURN (SELECT subscription_id FROM whisperer.delivery d WHERE d.uuid = $1); END'});

sub subscribe { return "SELECT whisperer.subscribe('item', 'http://127.0.0.1:1/$_[0]', config => '" . ($_[1] // '{}') . "')"; }
sub unsubscribe { return "SELECT whisperer.unsubscribe(id) FROM whisperer.subscription WHERE target_url LIKE '%/$_[0]' AND ended_date IS NULL"; }
sub pause { return "SELECT whisperer.update_subscription(id, '{\"is_active\": $_[1]}') FROM whisperer.subscription WHERE target_url LIKE '%/$_[0]'"; }

$node->safe_psql('postgres', q{SELECT whisperer.register_event_type('item')});

is_for('', 'nobody subscribes');

# Somebody else's changes, committed.
for my $change (
	[ subscribe('a'), 'a', 'a subscription' ],
	[ subscribe('b', '{"region": "eu"}'), 'a b', 'another' ],
	[ pause('a', 'false'), 'b', 'paused' ],
	[ pause('a', 'true'), 'a b', 'resumed' ],
	[ unsubscribe('a'), 'b', 'unsubscribed' ],
	[ subscribe('a'), 'a b', 'subscribed again' ],
	[ q{UPDATE whisperer.subscription SET is_active = false WHERE target_url LIKE '%/b'}, 'a', 'a superuser writes to the table' ],
	[ q{UPDATE whisperer.subscription SET is_active = true}, 'a b', 'and back' ],
	[ q{SET session_replication_role = replica; DELETE FROM whisperer.subscription WHERE target_url LIKE '%/a'; RESET session_replication_role},
		'b', 'with triggers off' ],
	[ q{BEGIN; } . subscribe('c') . '; ROLLBACK', 'b', 'rolled back' ],
	[ q{BEGIN; } . subscribe('c') . q{; PREPARE TRANSACTION 'c'}, 'b', 'prepared' ],
	[ q{COMMIT PREPARED 'c'}, 'b c', 'prepared and committed' ],
	[ q{COPY whisperer.subscription TO '} . $node->basedir . q{/copy'; TRUNCATE whisperer.subscription}, '', 'truncated' ],
	[ q{COPY whisperer.subscription FROM '} . $node->basedir . q{/copy'}, 'b c', 'loaded by COPY' ],
	[ q{SELECT whisperer.update_event_type('item', '{"description": "x"}')}, 'b c', 'the type changed' ],
)
{
	my ($sql, $wanted, $name) = @$change;
	my $said = $other->run("SET client_min_messages = warning; $sql");
	unlike($said, qr/ERROR/, "$name: done");
	is_for($wanted, "elsewhere: $name");
}

# With a filter, and without.
is_for('b', 'with a filter', filter => q{'{"region": "eu"}'});
is_for('', 'with another', filter => q{'{"region": "us"}'});
is_for('b c', 'without');
$other->run(q{SELECT whisperer.update_subscription(id, '{"config": {"region": "us"}}') FROM whisperer.subscription WHERE target_url LIKE '%/b'});
is_for('', 'the config has changed: the filter', filter => q{'{"region": "eu"}'});
is_for('b', 'the other filter', filter => q{'{"region": "us"}'});

# Committed while a transaction is open here: seen by its next statement.
$session->run('BEGIN');
is_for('b c', 'in a transaction');
$other->run(subscribe('d'));
is_for('b c d', 'a subscription committed meanwhile');
$session->run('COMMIT');

# Unless all its statements have one snapshot.
for my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	$session->run("BEGIN ISOLATION LEVEL $level; SELECT 1");
	$other->run(subscribe('late'));
	is_for('b c d', "$level: not for who subscribed after its snapshot");
	$session->run('COMMIT');
	is_for('b c d late', "$level: but after it");
	$other->run(unsubscribe('late'));
}

# One's own, not committed.
$session->run('BEGIN');
$session->run(subscribe('own'));
is_for('b c d own', 'one\'s own subscription');
$session->run('SAVEPOINT s');
$session->run(unsubscribe('b'));
is_for('c d own', 'in a savepoint: unsubscribed');
$session->run('ROLLBACK TO s');
is_for('b c d own', 'rolled back to it');
$session->run(unsubscribe('c'));
is_for('b d own', 'unsubscribed');
$session->run('ROLLBACK');
is_for('b c d', 'rolled back');
$session->run(q{SELECT 1; BEGIN});
$session->run(subscribe('two-phase'));
is_for('b c d two-phase', 'one\'s own subscription');
$session->run(q{PREPARE TRANSACTION 'own'});
is_for('b c d', 'prepared by this session: no longer its own');
$other->run(q{COMMIT PREPARED 'own'});
is_for('b c d two-phase', 'and committed by another');

# In one statement.
is($session->run(q{DO $$ BEGIN PERFORM whisperer.subscribe('item', 'http://127.0.0.1:1/x');
	ASSERT cardinality(whisperer.deliver_event('{}'::jsonb, 'item')) = 5;
	PERFORM whisperer.unsubscribe(max(id)) FROM whisperer.subscription;
	ASSERT cardinality(whisperer.deliver_event('{}'::jsonb, 'item')) = 4; END $$}), '', 'between the statements of a function');

# Functions of the type.
sub payload { return $session->run(q{SELECT DISTINCT payload FROM whisperer.event}); }
$other->run(q{CREATE FUNCTION public.short(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"short": true}'::jsonb $$});
$other->run(q{TRUNCATE whisperer.event; SELECT whisperer.update_event_type('item', '{"serializer": "public.short"}')});
is_for('b c d two-phase', 'a serializer');
is(payload(), '{"short": true}', 'which makes the payload');
$other->run(q{TRUNCATE whisperer.event; SELECT whisperer.update_event_type('item', '{"serializer": null}')});
is_for('b c d two-phase', 'without');
is(payload(), '{"id": 1}', 'the instance again');

# The type itself.
$other->run(q{UPDATE whisperer.subscription SET ended_date = now()});
$other->run(q{SELECT whisperer.unregister_event_type('item')});
is($session->run(q{SELECT whisperer.deliver_event('{}'::jsonb, 'item')}), 'ERROR:  WH004', 'the type is gone');
$other->run(q{SELECT whisperer.register_event_type('item')});
$other->run(subscribe('new'));
is_for('new', 'and is back');

# Another table of that name.
is($other->run(q{SET client_min_messages = warning; DROP EXTENSION whisperer; CREATE EXTENSION whisperer}), '', 'dropped and created again');
$other->run(q{SELECT whisperer.register_event_type('item')});
is_for('', 'another extension, without subscriptions');
$other->run(subscribe('again'));
is_for('again', 'and subscribed');

# Columns added, another index: what is known of the table is read anew.
$other->run(q{ALTER TABLE whisperer.delivery ADD COLUMN added integer; CREATE INDEX added ON whisperer.delivery ((subscription_id + 1))});
is_for('again', 'the delivery table changed');
is($session->run(q{SET enable_seqscan = off; SELECT count(*) FROM whisperer.delivery WHERE subscription_id + 1 > 0}), '4',
	'the new index has the rows');
$other->run(q{DROP INDEX whisperer.added; REINDEX TABLE CONCURRENTLY whisperer.delivery});
is_for('again', 'its indexes are others');
is($session->run(q{SET enable_seqscan = off; SELECT count(*) FROM whisperer.delivery WHERE created_date <= now()}), '6', 'and have the rows');

# An error in the middle of it, of the second row of two.
$other->run(subscribe('second'));
$other->run(q{TRUNCATE whisperer.delivery; CREATE UNIQUE INDEX one_only ON whisperer.delivery (event_uuid)});
for my $name ('an error while rows are written', 'and once more')
{
	is($session->run(q{DO $$ BEGIN PERFORM whisperer.deliver_event('{}'::jsonb, 'item'); EXCEPTION WHEN unique_violation THEN RAISE division_by_zero; END $$}),
		'ERROR:  22012', $name);
}
$other->run(q{DROP INDEX whisperer.one_only});
is_for('again second', 'then it works again');
is($session->run('SELECT count(*) FROM whisperer.delivery'), '4', 'and nothing was left of what had failed');

$_->quit for $session, $other;
$node->stop;
done_testing();
