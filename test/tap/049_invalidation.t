# What a session knows of a table may be declared void at any moment, by an ANALYZE or the like: also while it makes the text of
# a row of that table.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Session;

my $node = Whisperer::Node->started('main', settings => "whisperer.enabled = off\nautovacuum = off");
$node->safe_psql('postgres', q{
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', 'http://127.0.0.1:1/');
	CREATE TABLE first (id int);
	CREATE TABLE second (id int, days date[]);
	CREATE TRIGGER w AFTER DELETE ON first FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('t');
	CREATE TRIGGER w AFTER DELETE ON second FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('t');
	INSERT INTO first VALUES (1);
	INSERT INTO second VALUES (1, '{2020-02-02}')});

# The session knows all that it needs but the type of the second table's second column: that it must look up again in the
# middle of its work, because somebody touched it. For that it waits for a lock, and with the lock comes the message.
my ($session, $other) = map { Whisperer::Session->new($node, $_) } qw(raises changes);
$session->run($_) for 'DELETE FROM first', 'DELETE FROM second WHERE id = 2', q{SELECT 'second'::regtype};
my $pid = $session->run('SELECT pg_backend_pid()');
$other->run('SELECT pg_advisory_lock(1)');
$session->start('DELETE FROM second WHERE pg_advisory_xact_lock(1) IS NOT NULL');
ok($session->until_it_waits('Lock'), 'the statement has begun');
$other->run($_) for q{UPDATE pg_catalog.pg_type SET typname = typname WHERE oid = 'date[]'::regtype},
  'BEGIN', 'ALTER TABLE second ALTER COLUMN id SET STATISTICS 10', 'LOCK TABLE pg_catalog.pg_type IN ACCESS EXCLUSIVE MODE',
  'SELECT pg_advisory_unlock(1)';
# Asked in the other session: a new one would wait for the lock itself.
my $waits = "SELECT count(*) FROM pg_locks WHERE pid = $pid AND relation = 'pg_type'::regclass AND NOT granted";
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my $waiting = 0;
$waiting = $other->run($waits) until $waiting || time > $deadline;
ok($waiting, 'it looks up the type');
$other->run('COMMIT');
is($session->finish, '', 'the statement goes on');
is($node->safe_psql('postgres', 'SELECT payload FROM whisperer.delivery ORDER BY uuid'),
	qq({"id": 1}\n{"id": 1, "days": ["2020-02-02"]}), 'and its event has the row');
$_->quit for $session, $other;

$node->stop;
done_testing();
