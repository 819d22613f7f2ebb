# No process of ours stands in the way of statements that need a database without connections.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use File::Spec;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
# PostgreSQL itself ends a process of autovacuum that is in the way, and the log says so.
$node->init(settings => "whisperer.request_timeout = 100\nautovacuum = off");
$node->start;

# Runs a statement in postgres. PostgreSQL itself would wait five seconds for others, and then give up: no session of a user is there.
sub prompt
{
	my ($statement, $what) = @_;
	$node->poll_until('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname <> 'postgres'}, '0');
	my $start = time();
	my ($status, $output, $errors) = $node->psql('postgres', $statement);
	is($errors, '', "$what: no error");
	cmp_ok(time() - $start, '<', 60, "$what: prompt");
	return;
}

sub database_with_worker
{
	my ($name) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->create_whisperer($name);
	$node->delivery_pids($name);
	return;
}

my $log = $node->log_position;

# DROP, plain and with FORCE, while requests hang in flight too.
database_with_worker('dropped');
prompt('DROP DATABASE dropped', 'DROP DATABASE');
database_with_worker('forced');
prompt('DROP DATABASE forced WITH (FORCE)', 'DROP DATABASE … FORCE');
database_with_worker('busy');
$receiver->answer('/hang', { hang => 'headers' });
$node->safe_psql(
	'busy', qq{
	SELECT whisperer.register_event_type('made');
	SELECT whisperer.subscribe('made', '@{[$receiver->url('/hang')]}');
	SELECT whisperer.deliver_event('{}'::jsonb, 'made') FROM generate_series(1, 3)});
$receiver->await('/hang', 3);
prompt('DROP DATABASE busy', 'DROP DATABASE with requests in flight');
$receiver->release;

# … and while sessions of another database wait for a receiver, in their own process, and for everything to settle: a database is
# dropped only when every process of the server has let go of its files.
$node->create_whisperer('postgres');
$node->safe_psql(
	'postgres', qq{
	SELECT whisperer.register_event_type('made');
	SELECT whisperer.subscribe('made', '@{[$receiver->url('/hang-too')]}')});
$receiver->answer('/hang-too', { hang => 'request' });
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{}'::jsonb, 'made')});
my @waiting;
for my $call (q{deliver_event('{}'::jsonb, 'made', _async => false)}, q{wait_until_settled('1 h')})
{
	push @waiting, $node->background_psql('postgres', on_error_stop => 0);
	$waiting[-1]->query_until(qr/begun/, "\\echo begun\nSELECT whisperer.$call;\n");
}
my $all_wait = q{SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT whisperer.(deliver_event|wait_until)' AND state = 'active' AND wait_event_type = 'Extension'};
$node->poll_until('postgres', $all_wait, 2);
$receiver->await('/hang-too', 2);
database_with_worker('beside');
prompt('DROP DATABASE beside', 'DROP DATABASE while sessions wait elsewhere');
# All looked up when the database went.
$node->poll_until('postgres', $all_wait, 2);
pass('which they still do');
$receiver->release;
$_->quit for @waiting;
$node->safe_psql('postgres', 'DROP EXTENSION whisperer');

# RENAME: the worker is back under the new name.
database_with_worker('before');
prompt('ALTER DATABASE before RENAME TO after', 'RENAME');
$node->delivery_pids('after');
pass('the renamed database has its worker again');

# TEMPLATE, from another database and from the source itself; both strategies. The source works on; the copy is held.
foreach my $strategy (qw(wal_log file_copy))
{
	prompt("CREATE DATABASE copy_$strategy TEMPLATE after STRATEGY $strategy", "TEMPLATE, $strategy");
	$node->delivery_pids($_) foreach ('after', "copy_$strategy");
}
$node->await_alone('after');
is($node->psql('after', 'CREATE DATABASE copy_own TEMPLATE after'), 0, 'a copy of the database one is connected to');
$node->delivery_pids($_) foreach qw(after copy_own);
pass('source and copies have workers');

# template1, the template of every database.
$node->create_whisperer('template1');
$node->delivery_pids('template1');
prompt('CREATE DATABASE plain', 'CREATE DATABASE with the extension in template1');
$node->delivery_pids($_) foreach qw(template1 plain);
pass('the new database has a worker');
$node->safe_psql('template1', 'DROP EXTENSION whisperer');

# SET TABLESPACE.
my $directory = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$directory'");
prompt('ALTER DATABASE after SET TABLESPACE elsewhere', 'SET TABLESPACE');
$node->delivery_pids('after');
pass('the moved database has its worker again');

# Connections forbidden and allowed again. Not while the worker connects: it would be told so.
$node->poll_until('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'after' AND backend_type = 'whisperer delivery'}, '1');
$node->safe_psql('postgres', 'ALTER DATABASE after ALLOW_CONNECTIONS false');
$node->poll_until('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'after'}, 0);
$node->safe_psql('postgres', 'ALTER DATABASE after ALLOW_CONNECTIONS true');
$node->delivery_pids('after');
pass('a database that takes connections again has its worker again');

unlike($node->log_since($log), qr/WARNING|ERROR|FATAL|PANIC/, 'nothing in the log that should not be there');

# A statement that fails brings the workers back.
my ($worker) = $node->delivery_pids('after');
my $session = $node->background_psql('after', on_error_stop => 0);
isnt($node->psql('postgres', 'ALTER DATABASE after RENAME TO postgres'), 0, 'RENAME to a name that is taken fails');
isnt($node->psql('postgres', 'DROP DATABASE after'), 0, 'DROP DATABASE fails because of somebody else');
$session->quit;
$node->delivery_pids('after');
pass('the worker is there again after a failure');

# Nobody without the right can make the workers leave.
$node->safe_psql('postgres', 'CREATE ROLE nobody_special LOGIN');
($worker) = $node->delivery_pids('after');
foreach my $statement (
	'DROP DATABASE after',
	'ALTER DATABASE after RENAME TO other',
	'ALTER DATABASE after SET TABLESPACE pg_default',
	'CREATE DATABASE other TEMPLATE after',
	'ALTER DATABASE after SET whisperer.enabled = off')
{
	isnt($node->psql('postgres', "SET ROLE nobody_special; $statement"), 0, "refused: $statement");
}
isnt($node->psql('postgres', 'BEGIN; DROP DATABASE after'), 0, 'refused in a transaction block: DROP DATABASE');
is(($node->delivery_pids('after'))[0], $worker, 'and the worker has not moved');

$node->stop;
done_testing();
