# Copies are held: a dump restored into a new database and into another cluster, and a database cloned
# as a template, have the subscriptions, the event types and what was pending, send nothing until
# whisperer.resume(), and then everything.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
my $other = Whisperer::Node->started('other');
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->create_whisperer('source');

my $url = $receiver->url('/in');
$node->safe_psql(
	'source', qq{
	CREATE TABLE thing (id integer PRIMARY KEY);
	SELECT whisperer.register_event_type('thing', description => 'made for the dump');
	SELECT whisperer.attach('thing', 'thing');
	SELECT whisperer.subscribe('thing', '$url', 'the secret',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 2}}', config => '{"team": "one"}');
	INSERT INTO thing VALUES (1);
});
$receiver->await('/in', 1);
$node->wait_settled('source');

# Some that wait for their first attempt, and one that failed and waits for the next.
$receiver->answer('/in', { status => 500 });
$node->safe_psql('source', 'INSERT INTO thing VALUES (2)');
$receiver->await('/in', 2);
$node->poll_until('source', 'SELECT retry_count >= 1 FROM whisperer.pending');
$node->safe_psql('postgres', 'ALTER SYSTEM SET whisperer.enabled = off');
$node->reload;
$node->poll_until('source', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'source'}, 'disabled');
$node->safe_psql('source', 'INSERT INTO thing SELECT generate_series(3, 5)');
is($node->safe_psql('source', 'SELECT count(*) FROM whisperer.pending'), '4', 'four are pending in the source');

my $dump = "$PostgreSQL::Test::Utils::tmp_check/source.sql";
my $directory = "$PostgreSQL::Test::Utils::tmp_check/source.dump";
$node->command_ok([ 'pg_dump', '-f', $dump, 'source' ], 'a plain dump');
$node->command_ok([ 'pg_dump', '-Fc', '-f', $directory, 'source' ], 'a custom one');
unlike(slurp_file($dump), qr/^COPY whisperer\.history/m, 'the history is not in it');
$node->safe_psql('postgres', "CREATE DATABASE restored");
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ], 'restored into a new database');
$node->await_alone('source');
$node->safe_psql('postgres', 'CREATE DATABASE cloned TEMPLATE source');
pass('cloned as a template');
$other->safe_psql('postgres', 'CREATE DATABASE moved');
$other->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'moved', $directory ], 'restored into another cluster');

# Sending works again, and everybody has had the opportunity.
$receiver->answer('/in', { status => 200 });
$node->safe_psql('postgres', 'ALTER SYSTEM RESET whisperer.enabled');
$node->reload;
$node->wait_settled('source');
my $held_state = q{SELECT count(*) > 0 FROM whisperer.workers WHERE database = current_database() AND state ILIKE '%held%'};
my $same = q{SELECT (SELECT string_agg(event_type || ' ' || description, ',') FROM whisperer.event_types),
	(SELECT string_agg(concat_ws(' ', event_type, target_url, is_active, has_secret, retry_countdown_config, config), ',')
	 FROM whisperer.subscriptions)};
my $expected = $node->safe_psql('source', $same);
my @copies = ([ $node, 'restored' ], [ $node, 'cloned' ], [ $other, 'moved' ]);
for my $copy (@copies)
{
	my ($server, $database) = @$copy;
	is($server->safe_psql($database, $same), $expected, "$database: the event type and the subscription are there");
	is($server->safe_psql($database, 'SELECT count(*) FROM whisperer.pending'), '4', "$database: so is what was pending");
	is($server->safe_psql($database, 'SELECT string_agg(id::text, $$ $$ ORDER BY id) FROM thing'), '1 2 3 4 5',
		"$database: and the table");
	ok($server->poll_until($database, $held_state), "$database: it shows as held");
	# Raised in the copy: held, too.
	$server->safe_psql($database, 'INSERT INTO thing VALUES (6)');
	is($server->safe_psql($database, 'SELECT count(*) FROM whisperer.pending'), '5', "$database: five are pending");
}

# In each server something else is delivered after all that: it had every reason to send, and did not.
for my $server ($node, $other)
{
	my $database = $server == $node ? 'source' : 'postgres';
	my $path = '/after_' . $server->name;
	$server->safe_psql(
		$database, qq{
		SELECT whisperer.register_event_type('after');
		SELECT whisperer.subscribe('after', '@{[$receiver->url($path)]}');
		SELECT whisperer.deliver_event('{}'::jsonb, 'after')});
	$receiver->await($path, 1);
}
my %sent;
$sent{ $_->{body} =~ /"id": (\d+)/ ? $1 : '?' }++ for $receiver->requests(path => '/in');
is($sent{6}, undef, 'no copy sent what was raised in it');
is_deeply([ @sent{ 3, 4, 5 } ], [ 1, 1, 1 ], 'nor what was pending: the source alone did');
for my $copy (@copies)
{
	my ($server, $database) = @$copy;
	is($server->safe_psql($database, 'SELECT count(*) FROM whisperer.pending'), '5', "$database: still five are pending");
	my $said = () = $server->log_since(0) =~ /"?$database"?.*\bcopy\b/g;
	is($said, 1, "$database: the log says once that it is a copy");
}

for my $copy (@copies)
{
	my ($server, $database) = @$copy;
	$receiver->forget;
	$server->safe_psql($database, 'SELECT whisperer.resume()');
	my @requests = $receiver->await('/in', 5);
	$server->wait_settled($database);
	is(join(' ', sort map { $_->{body} =~ /"id": (\d+)/ } @requests), '2 3 4 5 6', "$database: resumed, it sends all of it");
	is(join(' ', map { $_->[1] } $receiver->verify('/in', 'the secret')), 'ok ok ok ok ok', "$database: signed");
	# The trigger came along.
	$server->safe_psql($database, 'INSERT INTO thing VALUES (7)');
	$receiver->await('/in', 6);
	ok($server->poll_until($database, $held_state, 'f'), "$database: it shows as held no longer");
}

# Not a copy: the same database under another name, and after a restart.
$receiver->forget;
$node->await_alone('source');
$node->safe_psql('postgres', 'ALTER DATABASE source RENAME TO renamed');
$node->safe_psql('renamed', 'INSERT INTO thing VALUES (8)');
$receiver->await('/in', 1);
$node->restart;
$node->safe_psql('renamed', 'INSERT INTO thing VALUES (9)');
$receiver->await('/in', 2);
pass('a renamed database goes on, and after a restart');

# Neither workers nor held copies stand in the way of DROP DATABASE.
for my $database (qw(renamed restored cloned))
{
	$node->await_alone($database);
	$node->safe_psql('postgres', "DROP DATABASE $database");
}
pass('databases can be dropped');

done_testing();
