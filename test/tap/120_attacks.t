# Attacks that once worked: each ends in a function of the attacker's running as somebody mightier, or in data of others.
# "boss" is an admin of whisperer, and no superuser: nothing of its own may ever run as one.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "whisperer.callback_timeout = 60s\nwhisperer.trigger_errors = record");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub as { my ($role, $statement) = @_; return sql("SET ROLE $role; $statement"); }
sub url { return $receiver->url($_[0]); }
sub session { my $role = shift; my $new = $node->background_psql('postgres', on_error_stop => 0); $new->query_safe("SET ROLE $role"); return $new; }
sub waits_for_lock { $node->poll_until('postgres', "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND $_[0]"); return; }
sub loot { return sql("SELECT string_agg(DISTINCT who, ' ' ORDER BY who) FROM evil.loot"); }

sql(q{
	CREATE ROLE boss; CREATE ROLE watcher; CREATE ROLE owner_a;
	SELECT whisperer.grant_access('boss', 'admin'), whisperer.grant_access('watcher', 'monitor'), whisperer.grant_access('owner_a', 'subscribe');
	CREATE SCHEMA evil AUTHORIZATION boss; GRANT USAGE ON SCHEMA evil TO PUBLIC});
as('boss', q{
	CREATE TABLE evil.loot (who text); GRANT ALL ON evil.loot TO PUBLIC;
	CREATE FUNCTION evil.serializer(jsonb) RETURNS jsonb LANGUAGE sql AS 'INSERT INTO evil.loot VALUES (current_user); SELECT $1';
	CREATE FUNCTION evil.countdown(integer, jsonb) RETURNS integer LANGUAGE sql AS 'INSERT INTO evil.loot VALUES (current_user); SELECT 100';
	CREATE FUNCTION evil.callback(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS
		'SELECT pg_advisory_xact_lock(4711); INSERT INTO evil.loot VALUES (current_user)'});

# ---- reassign(): what gets a function while it is being given away
{
	as('boss', q{SELECT whisperer.register_event_type('own')});
	as('owner_a', "SELECT whisperer.subscribe('own', '@{[url('/own')]}')");
	my $first = session('boss');
	my $second = session('boss');
	$first->query_safe(q{BEGIN; SELECT whisperer.update_event_type('own', '{"serializer": "evil.serializer"}')});
	$second->query_until(qr/asked/, "\\echo asked\nSELECT whisperer.reassign('boss', 'postgres');\n");
	waits_for_lock('true');
	$first->query_safe('COMMIT');
	$second->query('SELECT 1');
	like($second->{stderr}, qr/permission denied to give what runs functions/, 'a serializer set while its type is given to a superuser');
	as('owner_a', q{RESET ROLE; SELECT whisperer.deliver_event('{}'::jsonb, 'own')});
	is(loot(), 'boss', 'it does not run as one');
	as('boss', q{SELECT whisperer.update_event_type('own', '{"serializer": null}'); TRUNCATE evil.loot});
	$_->quit for $first, $second;
}
{
	my $first = session('boss');
	my $second = session('boss');
	my $id = as('boss', "SELECT whisperer.subscribe('own', '@{[url('/boss')]}')");
	$first->query_safe("BEGIN; SELECT whisperer.update_subscription($id, '{\"callback\": \"evil.callback\"}')");
	$second->query_until(qr/asked/, "\\echo asked\nSELECT whisperer.reassign('boss', 'postgres');\n");
	waits_for_lock('true');
	$first->query_safe('COMMIT');
	$second->query('SELECT 1');
	like($second->{stderr}, qr/permission denied to give what runs functions/, 'a callback set while its subscription is given to a superuser');
	is(sql("SELECT owner FROM whisperer.subscriptions WHERE id = $id"), 'boss', 'it stays where it was');
	$_->quit for $first, $second;

	# ---- and what is called for a subscription that has ended: a call that waits its turn runs as the owner of then
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	as('boss', q{SELECT whisperer.deliver_event('{}'::jsonb, 'own') FROM generate_series(1, 3)});
	waits_for_lock("locktype = 'advisory'");
	$node->poll_until('postgres', "SELECT count(*) >= 2 FROM whisperer.job WHERE runs = 0 OR true");
	my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE boss; SELECT whisperer.unsubscribe($id); SELECT whisperer.reassign('boss', 'postgres')");
	like($err, qr/permission denied to give what runs functions/, 'an ended subscription with a callback is not given to a superuser');
	$holder->quit;
	$node->poll_until('postgres', "SELECT count(*) >= 3 FROM evil.loot");
	is(loot(), 'boss', 'the callbacks that waited run as the attacker only');
	as('boss', 'TRUNCATE evil.loot');
}

# ---- A countdown registered anew, for a subscription that has ended: the job still waits
{
	sql(q{
		CREATE SCHEMA good; CREATE FUNCTION good.countdown(integer, jsonb) RETURNS integer LANGUAGE sql AS 'SELECT 100';
		SELECT whisperer.register_countdown('mine', 'good.countdown'); SELECT whisperer.register_event_type('root')});
	$receiver->answer('/root', { status => 500 });
	my $id = sql("SELECT whisperer.subscribe('root', '@{[url('/root')]}', retry_countdown_config => '{\"choice\": \"mine\", \"kwargs\": {}}')");
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('BEGIN; LOCK TABLE whisperer.custom_countdown IN ACCESS EXCLUSIVE MODE');
	# Several, one call after the other: each waits for a second, and no longer.
	sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'root') FROM generate_series(1, 20)});
	waits_for_lock("relation = 'whisperer.custom_countdown'::regclass");
	$holder->query_safe("SET ROLE boss; SELECT whisperer.unsubscribe($id); SELECT whisperer.unregister_countdown('mine');
		SELECT whisperer.register_countdown('mine', 'evil.countdown'); COMMIT");
	$holder->quit;
	$node->poll_until('postgres', "SELECT count(*) = 0 FROM whisperer.job WHERE kind = 'n'");
	is(loot(), '', 'the new countdown of that name does not run as the owner of an ended subscription');
}

# ---- A column's cast to json, which to_jsonb() uses: it runs as the table's owner, whoever writes
{
	as('boss', q{
		TRUNCATE evil.loot;
		CREATE TYPE evil.colour AS ENUM ('red');
		CREATE FUNCTION evil.to_json(evil.colour) RETURNS json LANGUAGE plpgsql AS $$BEGIN INSERT INTO evil.loot VALUES (current_user); RETURN '"x"'::json; END$$;
		CREATE CAST (evil.colour AS json) WITH FUNCTION evil.to_json(evil.colour);
		CREATE TABLE evil.paint (colour evil.colour);
		SELECT whisperer.register_event_type('paint');
		SELECT whisperer.attach('evil.paint', 'paint')});
	as('owner_a', "SELECT whisperer.subscribe('paint', '@{[url('/paint')]}')");
	sql(q{INSERT INTO evil.paint VALUES ('red')});
	is(loot(), 'boss', "a superuser's INSERT runs it as the table's owner");
	like(($receiver->await('/paint', 1))[0]{body}, qr/"colour": "x"/, 'and the event arrives');
	as('boss', 'TRUNCATE evil.loot');
}

# ---- What functions say may be made of the data that monitors do not see
{
	sql(q{
		SELECT whisperer.register_event_type('private');
		CREATE TABLE good.patient (name text);
		CREATE FUNCTION good.callback(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
			$$BEGIN RAISE 'no room for %', $3->>'name' USING DETAIL = 'card of ' || ($3->>'name'); END$$;
		CREATE FUNCTION good.serializer(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN
			IF $1->>'name' = 'Eve' THEN RAISE 'cannot tell of %', $1->>'name'; END IF; RETURN $1; END$$;
		SELECT whisperer.update_event_type('private', '{"serializer": "good.serializer"}');
		SELECT whisperer.attach('good.patient', 'private');
		GRANT USAGE ON SCHEMA good TO owner_a});
	my $id = as('owner_a', "SELECT whisperer.subscribe('private', '@{[url('/private')]}', callback => 'good.callback')");
	sql(q{INSERT INTO good.patient VALUES ('Adam'), ('Eve')});
	# There are those of countdowns that waited for the lock, too.
	my $failures = "FROM whisperer.function_failures WHERE subscription_id = $id";
	$node->poll_until('postgres', "SELECT count(*) > 0 $failures");
	my $reads = qq{SELECT concat_ws('; ', (SELECT concat_ws(' ', sqlstate, error) $failures),
		(SELECT error FROM whisperer.failed WHERE event_type = 'private'))};
	for my $who (qw(owner_a boss)) {
		is(as($who, $reads), 'P0001 no room for Adam (card of Adam); serializer good.serializer(jsonb): cannot tell of Eve', "what functions say, to $who");
	}
	is(as('watcher', $reads), 'P0001; the body could not be made', 'and to a monitor');
	my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE watcher; SELECT error FROM whisperer.function_failure");
	like($err, qr/permission denied/, 'nor from the table');
}

# ---- What one owner's function leaves in the process, the next owner's does not find
{
	sql(q{
		CREATE TABLE good.found (pid integer, setting text, drawn float8, settings text); GRANT ALL ON good.found TO PUBLIC;
		CREATE FUNCTION good.look(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS
			$$INSERT INTO good.found SELECT pg_backend_pid(), current_setting('evil.note', true), random(), current_setting('search_path') || current_setting('work_mem')$$;
		SELECT whisperer.register_event_type('leave'), whisperer.register_event_type('look')});
	as('boss', q{
		CREATE FUNCTION evil.leave(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN
			PERFORM set_config('evil.note', 'read me', false), set_config('search_path', 'evil', false), set_config('work_mem', '64kB', false), setseed(0.5);
			INSERT INTO evil.loot VALUES (pg_backend_pid()); END$$});
	as('boss', "SELECT whisperer.subscribe('leave', '@{[url('/leave')]}', callback => 'evil.leave')");
	as('owner_a', "SELECT whisperer.subscribe('look', '@{[url('/look')]}', callback => 'good.look')");
	# In the same process; under load there may be several.
	for (1 .. 20)
	{
		sql(q{TRUNCATE evil.loot, good.found; SELECT whisperer.deliver_event('{}'::jsonb, 'leave')});
		$node->poll_until('postgres', 'SELECT count(*) > 0 FROM evil.loot');
		sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'look')});
		$node->poll_until('postgres', 'SELECT count(*) > 0 FROM good.found');
		last if sql('SELECT pid = who::integer FROM good.found, evil.loot') eq 't';
	}
	is(sql('SELECT pid = who::integer FROM good.found, evil.loot'), 't', 'the same process');
	is(sql(q{SELECT nullif(setting, '') IS NULL, settings = 'pg_catalog, pg_temp' || current_setting('work_mem') FROM good.found}), 't|t', 'no settings');
	is(sql(q{SELECT count(*) FROM good.found, (SELECT setseed(0.5)) s, LATERAL (SELECT random() AS known FROM generate_series(1, 5)) r WHERE known = drawn}), '0',
		'nor the seed of random()');
}

# ---- Nobody fills the disk with an error
{
	sql(q{
		CREATE FUNCTION good.shout(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE '%', repeat('ü', 1000000); END$$;
		SELECT whisperer.register_event_type('loud')});
	my $id = as('owner_a', "SELECT whisperer.subscribe('loud', '@{[url('/loud')]}', callback => 'good.shout')");
	sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'loud')});
	$node->poll_until('postgres', "SELECT count(*) > 0 FROM whisperer.function_failures WHERE subscription_id = $id");
	is(sql("SELECT length(error) FROM whisperer.function_failures WHERE subscription_id = $id"), 4096, 'what is kept of it is short');
}

$node->stop;
done_testing();
