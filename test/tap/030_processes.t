# Processes start and stop with the extension, without a restart of the server, in several databases;
# changes of settings reach them; they come back when they are ended; totals survive a restart.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
$node->init;
$node->start;

sub delivery_workers
{
	my ($where) = @_;
	return 'SELECT count(*) FROM pg_stat_activity WHERE backend_type = \'whisperer delivery\''
	  . ($where ? " AND $where" : '');
}

# Without the extension there is the launcher, and nothing else once the databases have been probed.
$node->poll_until('postgres',
	q{SELECT string_agg(DISTINCT backend_type, ' ') FROM pg_stat_activity WHERE backend_type LIKE 'whisperer %'},
	'whisperer launcher');

# CREATE EXTENSION starts a worker, in each database.
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->create_whisperer($_) foreach qw(postgres shop);
$node->delivery_pids($_) foreach qw(postgres shop);
pass('a delivery worker in each database with the extension');
is($node->safe_psql('postgres', delivery_workers("datname NOT IN ('postgres', 'shop')")), 0, 'and in no other');
is( $node->safe_psql(
		'postgres',
		q{SELECT kind, database, pid IS NOT NULL, started <= now(), in_flight, last_activity >= started
		  FROM whisperer.workers WHERE kind IN ('launcher', 'delivery') ORDER BY kind, database}),
	"delivery|postgres|t|t|0|t\ndelivery|shop|t|t|0|t\nlauncher||t|t|0|t",
	'the view of the processes');
# There they are only once they are in their database.
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.workers w JOIN pg_stat_activity a USING (pid)
	WHERE w.kind IN ('launcher', 'delivery') AND a.backend_type = 'whisperer ' || w.kind AND a.application_name LIKE a.backend_type || '%'}, 3);
pass('pg_stat_activity knows them by telling names');

# CREATE EXTENSION that is rolled back starts nothing that stays; neither does DROP EXTENSION stop anything for good.
$node->safe_psql('plain', 'BEGIN; CREATE EXTENSION whisperer; ROLLBACK');
my ($before) = $node->delivery_pids('shop');
$node->safe_psql('shop', 'BEGIN; DROP EXTENSION whisperer; ROLLBACK');
is(($node->delivery_pids('shop'))[0], $before, 'the worker stays when DROP EXTENSION is rolled back');

# DROP EXTENSION stops the worker; again both, in one transaction: a new worker for the new installation.
$node->safe_psql('shop', 'DROP EXTENSION whisperer');
$node->poll_until('postgres', delivery_workers("datname = 'shop'"), 0);
pass('DROP EXTENSION stops the worker');
$node->create_whisperer('shop');
($before) = $node->delivery_pids('shop');
$node->safe_psql('shop', 'BEGIN; DROP EXTENSION whisperer; CREATE EXTENSION whisperer; COMMIT');
$node->poll_until('postgres', delivery_workers("datname = 'shop' AND pid <> $before"), 1);
pass('a new installation has a new worker');
$node->safe_psql('shop', 'DROP EXTENSION whisperer CASCADE');
$node->poll_until('postgres', delivery_workers("datname = 'shop'"), 0);
$node->create_whisperer('shop');

# Events of several databases, and totals of each.
foreach my $database (qw(postgres shop))
{
	$node->safe_psql(
		$database, qq{
		SELECT whisperer.register_event_type('made');
		SELECT whisperer.subscribe('made', '@{[$receiver->url("/$database")]}');
		SELECT whisperer.deliver_event(jsonb_build_object('n', n), 'made') FROM generate_series(1, 3) n});
}
$receiver->await("/$_", 3) foreach qw(postgres shop);
$node->wait_settled($_) foreach qw(postgres shop);
my $totals = 'SELECT events, deliveries, attempts, delivered, failed, cancelled, callbacks, callback_errors FROM whisperer.statistics';
# Counted a moment after it can be seen.
$node->poll_until('shop', $totals, '3|3|3|3|0|0|0|0');
pass('totals of a database');
$node->safe_psql(
	'shop', q{
	BEGIN;
	SELECT whisperer.deliver_event('{}'::jsonb, 'made');
	SAVEPOINT s;
	SELECT whisperer.deliver_event('{}'::jsonb, 'made') FROM generate_series(1, 5);
	SAVEPOINT t;
	SELECT whisperer.deliver_event('{}'::jsonb, 'made');
	RELEASE t;
	ROLLBACK TO s;
	SAVEPOINT u;
	SELECT whisperer.deliver_event('{}'::jsonb, 'made');
	RELEASE u;
	COMMIT});
$node->safe_psql('shop', q{BEGIN; SELECT whisperer.deliver_event('{}'::jsonb, 'made'); ROLLBACK});
$node->wait_settled('shop');
$node->poll_until('shop', $totals, '5|5|5|5|0|0|0|0');
pass('what was rolled back is not counted');

# A restart keeps the totals; a reset does not.
$node->restart;
$node->delivery_pids($_) foreach qw(postgres shop);
$node->poll_until('shop', $totals, '5|5|5|5|0|0|0|0');
pass('totals survive a restart');
my $reset = $node->safe_psql('shop', 'SELECT stats_reset FROM whisperer.statistics');
$node->safe_psql('shop', 'SELECT whisperer.reset_statistics()');
is($node->safe_psql('shop', $totals), '0|0|0|0|0|0|0|0', 'reset');
is($node->safe_psql('shop', "SELECT stats_reset > '$reset' FROM whisperer.statistics"), 't', 'and when');
is($node->safe_psql('postgres', "SELECT events FROM whisperer.statistics"), 3, 'of this database only');

# More workers, fewer workers: the old set has gone before the new one starts.
my ($old) = $node->delivery_pids('shop');
$node->safe_psql('postgres', $_) foreach ('ALTER SYSTEM SET whisperer.workers = 3', 'SELECT pg_reload_conf()');
my @pids = $node->delivery_pids('shop', 3);
ok(!(grep { $_ == $old } @pids), 'three new workers');
$node->safe_psql('shop', q{SELECT whisperer.deliver_event('{}'::jsonb, 'made') FROM generate_series(1, 20)});
$node->wait_settled('shop');
is($receiver->count(path => '/shop'), 25, 'each delivery has one owner');
$node->safe_psql('postgres', $_) foreach ('ALTER SYSTEM RESET whisperer.workers', 'SELECT pg_reload_conf()');
$node->delivery_pids('shop', 1);
pass('one worker again');

# A setting of a database reaches its worker at once.
my $log = $node->log_position;
$node->safe_psql('postgres', 'ALTER DATABASE shop SET whisperer.enabled = off');
$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'shop'},
	'disabled');
$node->safe_psql('shop', q{SELECT whisperer.deliver_event('{}'::jsonb, 'made')});
$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'postgres'}, 'idle');
pass('the other database is not disabled');
is($receiver->count(path => '/shop'), 25, 'nothing is sent');
$node->safe_psql('postgres', 'ALTER DATABASE shop RESET whisperer.enabled');
$node->wait_settled('shop');
is($receiver->count(path => '/shop'), 26, 'what waited is sent when it is enabled again');

# Ended by pg_terminate_backend, they come back.
my ($worker) = $node->delivery_pids('shop');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
$node->poll_until('postgres', delivery_workers("datname = 'shop' AND pid <> $worker"), 1);
pass('a worker that was ended is started again');
my $launcher = $node->safe_psql('postgres', q{SELECT pid FROM whisperer.workers WHERE kind = 'launcher'});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
$node->poll_until('postgres', "SELECT count(*) FROM whisperer.workers WHERE kind = 'launcher' AND pid <> $launcher", 1);
$node->delivery_pids($_) foreach qw(postgres shop);
$node->safe_psql('shop', q{SELECT whisperer.deliver_event('{}'::jsonb, 'made')});
$node->wait_settled('shop');
is($receiver->count(path => '/shop'), 27, 'a launcher that was ended is started again, and takes over');

# Retention, by itself.
$node->safe_psql('postgres', $_) foreach (q{ALTER SYSTEM SET whisperer.retention = '1 microsecond'}, 'SELECT pg_reload_conf()');
$node->poll_until($_, 'SELECT count(*) FROM whisperer.webhook_events', 0) foreach qw(postgres shop);
pass('retention removes what is older');

# A prepared CREATE EXTENSION counts when it is committed.
$node->safe_psql('plain', q{BEGIN; CREATE EXTENSION whisperer; PREPARE TRANSACTION 'create'});
is($node->safe_psql('postgres', delivery_workers("datname = 'plain'")), 0, 'not before COMMIT PREPARED');
$node->safe_psql('plain', q{COMMIT PREPARED 'create'});
$node->delivery_pids('plain');
pass('COMMIT PREPARED of CREATE EXTENSION starts a worker');

unlike($node->log_since($log), qr/WARNING|ERROR|FATAL|PANIC/, 'nothing in the log that should not be there');
$node->stop;
done_testing();
