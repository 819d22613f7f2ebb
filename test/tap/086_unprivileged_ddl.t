# Statements of a role without privileges stop nobody's deliveries: its own settings are none of the workers'.
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

$node->stop;
done_testing();
