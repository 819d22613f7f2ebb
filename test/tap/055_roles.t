# Roles at work (contract 11; parity rows 11, 40): a writer without any privilege raises events that arrive; a dropped owner's deliveries are
# kept and not sent, also when a role gets its name again, until reassign(); grants come along in dumps, to another
# cluster whose roles have other numbers, too; what a role lost is not sent to it; no secret is in the log.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
sub sql { my ($statement, $database) = @_; return $node->safe_psql($database // 'postgres', $statement); }
sub as { my ($role, $statement) = @_; return sql("SET ROLE $role; $statement"); }
sub url { my $path = shift; return $receiver->url($path); }
# The SQLSTATE that a role gets.
sub refused
{
	my ($role, $statement, $server, $database) = @_;
	my ($rc, $out, $err) = ($server // $node)->psql($database // 'postgres', "SET ROLE $role; $statement", extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
	return $err =~ /(?:ERROR|FATAL): +(\w{5})/ ? $1 : 'ok';
}

sql(q{
	CREATE ROLE writer; CREATE ROLE owner_a; CREATE ROLE owner_b; CREATE ROLE watcher; CREATE ROLE boss; CREATE ROLE maker;
	CREATE SCHEMA shop;
	CREATE TABLE shop.package (id integer, region text) PARTITION BY LIST (region);
	CREATE TABLE shop.package_eu PARTITION OF shop.package FOR VALUES IN ('eu');
	GRANT USAGE ON SCHEMA shop TO PUBLIC;
	GRANT INSERT ON shop.package TO writer;
	GRANT TRIGGER ON shop.package, shop.package_eu TO maker;
	SELECT whisperer.register_event_type('package-created');
	SELECT whisperer.register_event_type('invoice');
	SELECT whisperer.grant_access('owner_a', 'subscribe', 'package-created');
	SELECT whisperer.grant_access('owner_b', 'subscribe');
	SELECT whisperer.grant_access('watcher', 'monitor');
	SELECT whisperer.grant_access('boss', 'admin');
	SELECT whisperer.grant_access('maker', 'deliver', 'package-created')});
as('owner_a', "SELECT whisperer.subscribe('package-created', '@{[url('/a')]}', 'the secret of a')");
# It fails for a while further down, and is not given up.
as('owner_b', "SELECT whisperer.subscribe('package-created', '@{[url('/b')]}',
	config => '{\"auth\": {\"auth_type\": \"bearer\", \"token\": \"tokenofb\"}, \"max_attempts\": 1000}')");

# ---- Writers and makers of triggers
as('maker', q{SELECT whisperer.attach('shop.package', 'package-created')});
is(refused('maker', q{SELECT whisperer.attach('shop.package', 'invoice')}), '42501', 'a trigger for a type that is not granted');
is(refused('maker', q{CREATE TRIGGER t AFTER INSERT ON shop.package FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('invoice')}),
	'42501', 'nor by CREATE TRIGGER');
is(refused('writer', q{CREATE TRIGGER t AFTER INSERT ON shop.package FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created')}),
	'42501', 'nor by somebody with no grant at all');
as('writer', q{INSERT INTO shop.package VALUES (1, 'eu')});
$receiver->await($_, 1) for qw(/a /b);
$node->wait_settled;
is(refused('writer', $_), '42501', "the writer may nothing else: $_")
  for ('SELECT * FROM whisperer.webhook_events', q{SELECT whisperer.deliver_event('{}'::jsonb, 'package-created')});
# Of a partition's copy the trigger's maker was asked, not who makes the partition (for whom PostgreSQL wants EXECUTE).
sql(q{CREATE ROLE splitter; SELECT whisperer.grant_access('splitter', 'deliver', 'invoice');
	ALTER TABLE shop.package OWNER TO splitter; GRANT CREATE ON SCHEMA shop TO splitter});
as('splitter', q{CREATE TABLE shop.package_us PARTITION OF shop.package FOR VALUES IN ('us')});
as('writer', q{INSERT INTO shop.package VALUES (2, 'us')});
$receiver->await($_, 2) for qw(/a /b);
pass('a partition made later raises events');
# What the maker loses, its triggers keep, as triggers keep their functions.
sql(q{SELECT whisperer.revoke_access('maker', 'deliver', 'package-created')});
as('writer', q{INSERT INTO shop.package VALUES (3, 'eu')});
$receiver->await($_, 3) for qw(/a /b);
pass('triggers stay when their maker lost its grant');
$node->wait_settled;

# ---- Each sees its own
is(as('owner_a', 'SELECT count(*), count(DISTINCT subscription_id) FROM whisperer.webhook_events'), '3|1', 'an owner sees its deliveries');
is(as('watcher', 'SELECT count(*), count(request_payload), count(response_content) FROM whisperer.webhook_events'), '6|0|0', 'a monitor all, without bodies');
is(as('watcher', q{SELECT string_agg(DISTINCT target_url, ' ') FROM whisperer.webhook_events}), url('') =~ s{/$}{}r, 'and without paths');
is(as('watcher', q{SET force_parallel_mode = on; SELECT count(*) FROM whisperer.webhook_events}), '6', 'in a parallel worker, too')
  if $node->pg_version < 16;
# A prepared statement goes with the role, and with what it owns.
is( as( 'owner_a', "PREPARE mine AS SELECT count(*) FROM whisperer.webhook_events WHERE state = 'delivered';
		EXECUTE mine; RESET ROLE; EXECUTE mine; SET ROLE owner_b; EXECUTE mine; SET ROLE watcher; EXECUTE mine;
		RESET ROLE; BEGIN; SELECT whisperer.reassign('owner_a', 'owner_b'); SET ROLE owner_b; EXECUTE mine; SET LOCAL ROLE owner_a; EXECUTE mine; ROLLBACK")
	  =~ s/\n+/ /gr,
	'3 6 3 6 6 0', 'prepared once, it answers each role as it should');

# ---- Revoked: nothing more is sent there
sql(q{SELECT whisperer.revoke_access('owner_a', 'subscribe', 'package-created')});
as('writer', q{INSERT INTO shop.package VALUES (4, 'eu')});
$receiver->await('/b', 4);
$node->wait_settled;
is($receiver->count(path => '/a'), 3, 'what one may no longer subscribe to is no longer sent');
is(refused('owner_a', q{SELECT whisperer.update_subscription(1, '{"is_active": true}')}), '42501', 'and its owner cannot resume it');
sql(q{SELECT whisperer.grant_access('owner_a', 'subscribe', 'package-created')});
as('owner_a', q{SELECT whisperer.update_subscription(1, '{"is_active": true}')});

# ---- A dropped owner
$receiver->answer('/b', { status => 500 });
sql(q{SELECT whisperer.update_subscription(id, '{"retry_countdown_config": {"choice": "fixed", "kwargs": {"seconds": 1}}}') FROM whisperer.subscriptions});
as('writer', q{INSERT INTO shop.package VALUES (5, 'eu')});
$receiver->await('/b', 5);
$node->poll_until('postgres', 'SELECT count(*) = 1 FROM whisperer.pending WHERE subscription_id = 2 AND retry_count > 0');
sql('DROP OWNED BY owner_b; DROP ROLE owner_b; CREATE ROLE owner_b');
sql(q{SELECT whisperer.grant_access('owner_b', 'subscribe')});
$node->poll_until('postgres', 'SELECT owner_dropped FROM whisperer.subscription WHERE id = 2');
is(sql('SELECT is_active, inactive_reason FROM whisperer.subscriptions WHERE id = 2'),
	q{f|held: the owner's role is gone; events are kept for whisperer.reassign()}, 'the view says why');
is(sql('SELECT is_active FROM whisperer.subscription_health WHERE subscription_id = 2'), 'f', '... and its health, too');
is(refused('postgres', q{SELECT whisperer.update_subscription(2, '{"is_active": true}')}), '55000', 'nor is it activated');
is(refused('postgres', $_), '55000', "nothing of it can be sent: $_")
  for ('SELECT whisperer.retry(uuid) FROM whisperer.pending WHERE subscription_id = 2',
	q{SELECT whisperer.deliver_event(NULL, 'package-created', false, uuid) FROM whisperer.pending WHERE subscription_id = 2});
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.in_flight_list()', '0');
$receiver->answer('/b', { status => 200 });
my $before = $receiver->count(path => '/b');
as('writer', q{INSERT INTO shop.package VALUES (6, 'eu')});
$receiver->await('/a', 5);
# It would be due a second after its last attempt; by the time of a later attempt elsewhere it has been.
$receiver->answer('/a', { status => 500 }, { status => 500 }, { status => 500 }, { status => 200 });
as('writer', q{INSERT INTO shop.package VALUES (7, 'eu')});
$receiver->await('/a', 9);
is($receiver->count(path => '/b'), $before, 'nothing is sent for an owner that is gone');
is(sql('SELECT count(*) FROM whisperer.pending WHERE subscription_id = 2'), '3', 'its deliveries are kept, those raised meanwhile, too');
is(as('owner_b', 'SELECT count(*) FROM whisperer.webhook_events'), '0', 'a role of the same name inherits nothing');
as('boss', q{SELECT whisperer.reassign('owner_b', 'owner_a')});
$node->wait_settled;
my @after = $receiver->requests(path => '/b');
my %sent = map { $_->{body} =~ /"id": (\d+)/ ? ($1 => 1) : () } @after[ $before .. $#after ];
is(join(' ', sort keys %sent), '5 6 7', 'reassigned, all of it is sent');
is(as('owner_a', 'SELECT string_agg(id::text, $$ $$ ORDER BY id) FROM whisperer.subscriptions'), '1 2', 'and is the new owner\'s');

# ---- Several at once
my @handles = map { my $role = $_; my ($out, $err) = ('', '');
	{ out => \$out, run => IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c',
		join ';', map { ("SELECT whisperer.grant_access('$role', 'subscribe')", "SELECT whisperer.revoke_access('$role', 'subscribe')") } 1 .. 10 ],
		'>', \$out, '2>', \$err), err => \$err } } qw(writer maker);
$_->{run}->finish for @handles;
is(join('', map { ${ $_->{err} } } @handles), '', 'granting and revoking in several sessions at once');

# ---- Dumps
my $dump = "$PostgreSQL::Test::Utils::tmp_check/roles.sql";
my $other = Whisperer::Node->started('other');
# Other numbers for the same names; one is missing.
$other->safe_psql('postgres', 'CREATE ROLE filler; CREATE ROLE boss; CREATE ROLE watcher; CREATE ROLE owner_a; CREATE ROLE writer; CREATE ROLE maker; CREATE ROLE splitter; CREATE DATABASE moved');
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'a dump with privileges');
$node->command_ok([ 'pg_dump', '--no-acl', '-f', "$dump.no_acl", 'postgres' ], 'one without');
$other->safe_psql('postgres', 'CREATE DATABASE bare');
$other->command_ok([ 'psql', '-XqAt', '-f', $dump, 'moved' ], 'restored in another cluster');
$other->command_ok([ 'psql', '-XqAt', '-f', "$dump.no_acl", 'bare' ], 'without privileges');
is(refused('watcher', 'SELECT * FROM whisperer.webhook_events', $other, 'moved'), 'ok', 'grants are there before resume()');
is(refused('watcher', 'SELECT * FROM whisperer.webhook_events', $other, 'bare'), '42501', 'privileges are not');
for my $database (qw(moved bare))
{
	$other->safe_psql($database, 'SELECT whisperer.resume()');
	is(refused('watcher', 'SELECT * FROM whisperer.webhook_events', $other, $database), 'ok', "$database: the monitor");
	is(refused('boss', 'SELECT whisperer.prune()', $other, $database), 'ok', "$database: the admin");
	is(refused('watcher', 'SELECT whisperer.prune()', $other, $database), '42501', "$database: and no more than that");
	$other->safe_psql('postgres', 'CREATE ROLE owner_b');
	is(refused('owner_b', 'SELECT * FROM whisperer.subscriptions', $other, $database), '42501', "$database: a role made later inherits no grant");
	is($other->safe_psql($database, q{SELECT count(*) FROM whisperer.access_grant WHERE role_system <> (SELECT system_identifier FROM pg_control_system())
		OR role_oid NOT IN (SELECT oid FROM pg_roles)}), '0', "$database: the table has this cluster's numbers");
	$other->safe_psql('postgres', 'DROP ROLE owner_b');
}

# ---- A role with grants is dropped as any with privileges
is(refused('postgres', 'DROP ROLE watcher'), '2BP01', 'a role with grants');
sql(q{SELECT whisperer.revoke_access('watcher', 'monitor'); DROP ROLE watcher});
sql('DROP OWNED BY boss; DROP ROLE boss');
as('writer', q{INSERT INTO shop.package VALUES (8, 'eu')}); # the worker looks for changed roles when it has something to do
$node->poll_until('postgres', q{SELECT count(*) = 0 FROM whisperer.access_grant WHERE role_name IN ('boss', 'watcher')});
pass('grants of a dropped role go');

unlike($node->log_since(0), qr/the secret of a|tokenofb/, 'no secret is in the log');
$node->stop;
$other->stop;
done_testing();
