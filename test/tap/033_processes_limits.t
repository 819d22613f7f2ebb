# What limits the processes is said in the log once, with the name of the setting; without the
# preload, nothing can be created.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;

my $node = Whisperer::Node->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->start;

# Not preloaded.
my ($status, $output, $errors) = $node->psql('postgres', 'CREATE EXTENSION whisperer');
like($errors, qr/ERROR:  whisperer is not in shared_preload_libraries/, 'not preloaded: CREATE EXTENSION fails');
like($errors, qr/HINT:  .*shared_preload_libraries = 'whisperer'.*restart/, 'the hint says what to set');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'whisperer'}), 0, 'nothing stays');
like(($node->psql('postgres', q{LOAD 'whisperer'}))[2], qr/not in shared_preload_libraries/, 'LOAD fails too');

# A schema that is there beforehand.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'whisperer'");
$node->restart;
$node->safe_psql('postgres', 'CREATE SCHEMA whisperer');
like(($node->psql('postgres', 'CREATE EXTENSION whisperer'))[2], qr/schema "whisperer" already exists/, 'a prepared schema is refused');
$node->safe_psql('postgres', 'DROP SCHEMA whisperer; CREATE ROLE nobody_special');
like(
	($node->psql('postgres', 'GRANT CREATE ON DATABASE postgres TO nobody_special; SET ROLE nobody_special; CREATE EXTENSION whisperer'))[2],
	qr/permission denied to create extension "whisperer"/,
	'only a superuser creates the extension');

# Too few background workers: the launcher, logical replication's launcher, one delivery worker and one probe.
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(one two three);
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
my $log = $node->log_position;
$node->restart;
$node->create_whisperer($_) foreach qw(one two three);
my $said = qr/WARNING:  whisperer has no background worker slot for database/;
$node->wait_for_log($said, $log);
# One of the three has the only slot, whichever was first.
my $serving = q{SELECT string_agg(datname, ',') FROM pg_stat_activity WHERE backend_type = 'whisperer delivery'};
$node->poll_until('postgres', "SELECT ($serving) IN ('one', 'two', 'three')");
my $served = $node->safe_psql('postgres', $serving);
my $count = () = $node->log_since($log) =~ /$said/g;
is($count, 1, 'said once that there are too few slots');
like($node->log_since($log), qr/HINT:  Increase max_worker_processes \(now 3\)/, 'with the name of the setting');

# A slot that becomes free is taken.
$node->safe_psql($served, 'DROP EXTENSION whisperer');
$node->poll_until('postgres', qq{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'whisperer delivery' AND datname <> '$served'});
pass('a slot that is free again is used');

# Too many databases.
$node->append_conf('postgresql.conf', "max_worker_processes = 32\nwhisperer.max_databases = 1");
$log = $node->log_position;
$node->restart;
$node->wait_for_log(qr/WARNING:  more databases have whisperer than it has room for/, $log);
like($node->log_since($log), qr/HINT:  Increase whisperer.max_databases and restart the server/, 'too many databases: the setting is named');
$node->poll_until('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'whisperer delivery'}, 1);
pass('those there is room for are served');

# Started without the preload: nobody's events are lost in silence, whatever is asked says what is wrong.
$node->append_conf('postgresql.conf', 'whisperer.max_databases = 64');
$node->restart;
my ($database) = grep { $_ ne $served } qw(one two three);
$node->safe_psql($database, q{CREATE TABLE item (id int); SELECT whisperer.attach('item', 'item')});
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
like(($node->psql($database, "\\set VERBOSITY verbose\n$_"))[2], qr/ERROR:  55000: whisperer is not in shared_preload_libraries/, "without the preload: $_")
  for ('INSERT INTO item VALUES (1)', 'TABLE whisperer.webhook_events', 'TABLE whisperer.workers');
like(($node->psql($database, 'SHOW whisperer.enabled'))[2], qr/unrecognized configuration parameter/, 'nor are there settings');

$node->stop;
done_testing();
