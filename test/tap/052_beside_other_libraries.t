# Before and behind other libraries that take the same hooks in shared_preload_libraries: deliveries go, databases and the extension
# come and go, and the others see every statement.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $libraries = qx("$ENV{PG_CONFIG}" --pkglibdir);
chomp $libraries;
plan(skip_all => "$_ is not installed") for grep { !-e "$libraries/$_.so" } qw(pg_stat_statements auto_explain);

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
# PostgreSQL itself ends a process of autovacuum that is in the way, and the log says so.
$node->init(settings => "pg_stat_statements.track = all\nauto_explain.log_min_duration = 0\nautovacuum = off");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub calls { return sql("SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE '$_[0]'"); }

for my $order ('whisperer, pg_stat_statements, auto_explain', 'pg_stat_statements, auto_explain, whisperer')
{
	$receiver->reset;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$order'");
	$node->start;
	my $log = $node->log_position;
	sql('CREATE EXTENSION IF NOT EXISTS pg_stat_statements; CREATE EXTENSION whisperer; CREATE TABLE item (n integer)');
	sql('SELECT count(pg_stat_statements_reset())');
	sql(qq{SELECT whisperer.register_event_type('t');
		SELECT whisperer.attach('item', 't');
		SELECT whisperer.subscribe('t', '@{[$receiver->url('/in')]}')});

	# A session's own statements, and what it commits in two phases, which a hook of ours announces.
	sql('INSERT INTO item VALUES (1)');
	$receiver->await('/in', 1);
	sql("BEGIN; INSERT INTO item VALUES (2); PREPARE TRANSACTION 'two'");
	sql("COMMIT PREPARED 'two'");
	$receiver->await('/in', 2);
	$node->wait_settled;
	is(calls('INSERT INTO item VALUES%'), 2, "$order: inserts are counted");
	is(calls('COMMIT PREPARED%'), 1, "$order: so is COMMIT PREPARED");
	like($node->log_since($log), qr/plan:\n\s+Query Text: INSERT INTO item VALUES \(1\)/, "$order: auto_explain has seen the insert");

	# DDL that our processes get out of the way of.
	sql('CREATE DATABASE other');
	$node->create_whisperer('other');
	$node->delivery_pids('other');
	my $start = time();
	sql($_) for 'ALTER DATABASE other RENAME TO another', 'CREATE DATABASE copy TEMPLATE another', 'DROP DATABASE another';
	cmp_ok(time() - $start, '<', 60, "$order: nobody stands in the way of RENAME, TEMPLATE and DROP DATABASE");
	is(calls($_), 1, "$order: counted: $_") for 'ALTER DATABASE other RENAME%', 'CREATE DATABASE copy%', 'DROP DATABASE another';
	sql('DROP DATABASE copy');

	# The extension goes and comes; what comes delivers.
	my ($pid) = $node->delivery_pids('postgres');
	sql('DROP TABLE item');
	sql('DROP EXTENSION whisperer');
	$node->poll_until('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", 0);
	$node->create_whisperer('postgres');
	is(calls('%EXTENSION whisperer'), 3, "$order: the extension's two comings and its going are counted");
	sql(qq{SELECT whisperer.register_event_type('t'); SELECT whisperer.subscribe('t', '@{[$receiver->url('/again')]}')});
	sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 't')});
	$receiver->await('/again', 1);
	$node->wait_settled;
	sql('DROP EXTENSION whisperer');
	unlike($node->log_since($log), qr/WARNING|ERROR|FATAL|PANIC/, "$order: nothing in the log that should not be there");
	$node->stop;
}
done_testing();
