# Statements of a role without privileges stop nobody's deliveries: its own settings are none of the workers', and it does not get the
# lock that keeps them from the extension.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;

use Whisperer::Node;
use Whisperer::Receiver;

my $node = Whisperer::Node->started('main');
my $receiver = Whisperer::Receiver->new;
$node->safe_psql('postgres', 'CREATE DATABASE second');
$node->create_whisperer('second');
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');

sub pid { return ($node->delivery_pids($_[0]))[0] }

sub until_restarted
{
	my ($database, $old) = @_;
	$node->poll_until('postgres',
		"SELECT count(*) FROM whisperer.workers WHERE kind = 'delivery' AND database = '$database' AND pid <> $old", 1);
	return pid($database);
}

# ---- The role's own settings. What is said of another database afterwards has been done by the launcher, so that was, too.
my ($first, $second) = (pid('postgres'), pid('second'));
for my $statement ('ALTER ROLE CURRENT_USER RESET ALL', 'ALTER ROLE nobody RESET ALL', 'ALTER ROLE nobody IN DATABASE postgres RESET ALL')
{
	$node->safe_psql('postgres', "SET SESSION AUTHORIZATION nobody; $statement");
	$node->safe_psql('postgres', q{ALTER DATABASE second SET whisperer.request_timeout = '7'});
	$second = until_restarted('second', $second);
	is(pid('postgres'), $first, "$statement of a role without privileges restarts no worker");
}
# Those that workers take over do.
for my $statement (q{ALTER ROLE postgres SET whisperer.request_timeout = '9'}, 'ALTER ROLE CURRENT_USER RESET ALL', 'ALTER ROLE ALL RESET ALL')
{
	$node->safe_psql('postgres', $statement);
	$first = until_restarted('postgres', $first);
	$second = until_restarted('second', $second);
	pass("$statement of the superuser restarts all of them");
}

# ---- The extension's lock. PostgreSQL takes it for these statements first and looks at privileges then, or does not look. While
# somebody shares it, as the workers do, whoever asks for it has to wait.
my $sharer = $node->background_psql('postgres');
$sharer->query_safe('CREATE TABLE to_add (); BEGIN; ALTER EXTENSION whisperer ADD TABLE to_add');
my $function = q{CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'};
my @refused = (
	'DROP EXTENSION whisperer',
	'DROP EXTENSION IF EXISTS nonsense, whisperer CASCADE',
	'DO $$ BEGIN EXECUTE $e$DROP EXTENSION whisperer$e$; END $$',
	"$function; ALTER FUNCTION pg_temp.f() DEPENDS ON EXTENSION whisperer",
	"$function; ALTER FUNCTION pg_temp.f() NO DEPENDS ON EXTENSION whisperer");
for my $statement (@refused)
{
	my ($status, $output, $errors) =
	  $node->psql('postgres', "\\set VERBOSITY verbose\nSET SESSION AUTHORIZATION nobody; SET lock_timeout = '2s'; $statement");
	like($errors, qr/ERROR:  42501: must be owner of extension whisperer/, "refused without a lock: $statement");
}
$sharer->query_safe('ROLLBACK');
$sharer->quit;
my ($status, $output, $errors) = $node->psql('postgres', 'SET SESSION AUTHORIZATION nobody; DROP EXTENSION IF EXISTS nonsense');
is($status, 0, 'other extensions are PostgreSQL\'s own business');

# A transaction of that role's which stays open after it has tried is in nobody's way.
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', '@{[$receiver->url('/in')]}')});
my $open = $node->background_psql('postgres', on_error_stop => 0);
$open->query("SET SESSION AUTHORIZATION nobody; $function; BEGIN; SAVEPOINT s; ALTER FUNCTION pg_temp.f() DEPENDS ON EXTENSION whisperer");
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{}'::jsonb, 't')});
$receiver->await('/in', 1);
$open->quit;

# The owner may.
$node->safe_psql('postgres', "$function; ALTER FUNCTION pg_temp.f() DEPENDS ON EXTENSION whisperer");
$node->safe_psql('postgres', 'DROP EXTENSION whisperer');
$node->poll_until('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND backend_type LIKE 'whisperer%'}, 0);
pass('the owner may');

$node->stop;
done_testing();
