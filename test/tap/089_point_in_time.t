# A server restored to a point in time, as docs/upgrading.md says: with whisperer.enabled = off it sends nothing of what was
# pending then, what has arrived since is cancelled, and on again the rest arrives once. A database's own setting that the copy
# inherits beats that; a copy that does not preload the library is fenced all the same.
use strict;
use warnings;

use IPC::Run qw(run);
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $origin = Whisperer::Node->new('origin');
$origin->init(allows_streaming => 1, has_archiving => 1);
$origin->start;
$origin->safe_psql('postgres', 'CREATE DATABASE shop');
my $hour = '{"choice": "fixed", "kwargs": {"seconds": 3600}}';
my $second = '{"choice": "fixed", "kwargs": {"seconds": 1}}';
for my $subscription ([ 'postgres', 'paid', $hour ], [ 'postgres', 'sent', $hour ], [ 'shop', 'shop', $second ])
{
	my ($database, $type, $countdown) = @$subscription;
	$origin->create_whisperer($database) if $type ne 'sent';
	$origin->safe_psql(
		$database, qq{
		SELECT whisperer.register_event_type('$type');
		SELECT whisperer.subscribe('$type', '@{[$receiver->url("/$type")]}', retry_countdown_config => '$countdown',
			config => '{"max_attempts": 1000}')});
}

sub deliver
{
	my ($node, $database, $type, @ids) = @_;
	$node->safe_psql($database, "SELECT whisperer.deliver_event(jsonb_build_object('id', $_), '$type')") for @ids;
	return;
}

sub set
{
	my ($node, $setting) = @_;
	$node->safe_psql('postgres', $_) for "ALTER SYSTEM $setting", 'SELECT pg_reload_conf()';
	return;
}

sub disabled
{
	my ($node, $database) = @_;
	$node->poll_until('postgres', "SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = '$database'", 'disabled');
	return;
}

sub ids { my ($path) = @_; return join ' ', sort map { $_->{body} =~ /"id": (\d+)/ } $receiver->requests(path => $path); }
sub pending { my ($node, $database) = @_; return $node->safe_psql($database, 'SELECT uuid FROM whisperer.pending ORDER BY uuid'); }

deliver($origin, 'postgres', 'paid', 0);
$origin->wait_settled;
$origin->backup('base');

# --- what is pending at the point in time: nothing of it has been tried, but in the database that is on by itself
$receiver->answer($_, { status => 500 }) for '/sent', '/shop';
set($origin, 'SET whisperer.enabled = off');
disabled($origin, 'postgres');
deliver($origin, 'postgres', 'paid', 1);
deliver($origin, 'postgres', 'sent', 2, 3, 4);
$origin->safe_psql('postgres', 'ALTER DATABASE shop SET whisperer.enabled = on');
deliver($origin, 'shop', 'shop', 5);
$receiver->await('/shop', 1);
my $pending = pending($origin, 'postgres');
my $since = $origin->safe_psql('postgres', 'SELECT clock_timestamp()');
$origin->safe_psql('postgres', q{SELECT pg_create_restore_point('target')});

# --- and what happened afterwards: one of them was delivered, and one that was raised later
set($origin, 'RESET whisperer.enabled');
deliver($origin, 'postgres', 'paid', 9);
$origin->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE delivered}, '3');
$receiver->await('/sent', 3);
my $arrived = $origin->safe_psql('postgres',
	"SELECT string_agg(quote_literal(uuid), ', ') FROM whisperer.webhook_events WHERE delivered AND modified_date > '$since'");
$origin->stop;
is(ids('/paid'), '0 1 9', 'the origin has delivered one of what was pending');

# A server as it was at that point; its own settings, in postgresql.auto.conf.
sub restored
{
	my ($name, @settings) = @_;
	my $copy = Whisperer::Node->new($name);
	$copy->init_from_backup($origin, 'base', has_restoring => 1, standby => 0);
	$copy->append_conf('postgresql.conf', "recovery_target_name = 'target'\nrecovery_target_action = promote\narchive_mode = off");
	$copy->append_conf('postgresql.auto.conf', join "\n", @settings);
	$receiver->forget;
	$receiver->answer($_, { status => 200 }) for '/sent', '/shop';
	$copy->start;
	$copy->poll_until('postgres', 'SELECT pg_is_in_recovery()', 'f');
	return $copy;
}

# --- off in the copy
my $copy = restored('copy', 'whisperer.enabled = off');
disabled($copy, 'postgres');
is(pending($copy, 'postgres'), $pending, 'what was pending is pending again, that which has arrived since, too');
$receiver->await('/shop', 1);
pass('a setting of the database, inherited, beats the one of the file');
is($receiver->count(path => '/paid') + $receiver->count(path => '/sent'), 0, 'without one nothing is sent');
$copy->safe_psql('postgres', "SELECT whisperer.cancel(uuid) FROM whisperer.pending WHERE uuid IN ($arrived)");
set($copy, 'RESET whisperer.enabled');
$copy->wait_settled;
deliver($copy, 'postgres', 'paid', 7);
$copy->wait_settled;
is(ids('/sent'), '2 3 4', 'on: the rest arrives, each once');
is(ids('/paid'), '7', 'and what had arrived does not: only what is new');
is($copy->safe_psql('postgres', q{SELECT string_agg(state || ' ' || n, ', ' ORDER BY state)
	FROM (SELECT state, count(*) AS n FROM whisperer.webhook_events GROUP BY state) s}), 'cancelled 1, delivered 5', 'as the copy says');

# As pg_rewind starts a server that was not shut down cleanly: in single-user mode nothing is sent of what a start sends.
set($copy, 'SET whisperer.enabled = off');
disabled($copy, 'postgres');
deliver($copy, 'postgres', 'paid', 8);
$copy->safe_psql('postgres', 'ALTER SYSTEM RESET whisperer.enabled');
$copy->stop('immediate');
my $said = '';
ok(run([ 'postgres', '--single', '-F', '-D', $copy->data_dir, 'template1' ], '<', \'', '>&', \$said), 'single-user mode') or diag($said);
is(ids('/paid'), '7', 'sends nothing');
$copy->start;
$copy->wait_settled;
is(ids('/paid'), '7 8', 'and a start does');
$copy->stop;

# --- the library not preloaded in the copy
$copy = restored('fenced', 'whisperer.enabled = off', q{shared_preload_libraries = ''});
is($copy->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'whisperer%'}), '0',
	'not preloaded: no process');
like(($copy->psql('shop', q{SELECT whisperer.deliver_event('{}'::jsonb, 'shop')}))[2], qr/not in shared_preload_libraries/,
	'and no event');
my $own = q{SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text ILIKE '%whisperer.enabled%'};
is($copy->safe_psql('postgres', $own), '1', 'the setting is seen');
$copy->safe_psql('postgres', 'ALTER DATABASE shop RESET whisperer.enabled');
is($copy->safe_psql('postgres', $own), '0', 'and taken away');
$copy->safe_psql('postgres', 'ALTER SYSTEM RESET shared_preload_libraries');
$copy->restart;
disabled($copy, 'shop');
# The other database sends meanwhile.
$copy->safe_psql('postgres', 'ALTER DATABASE postgres SET whisperer.enabled = on');
$receiver->await('/sent', 3);
is($receiver->count(path => '/shop'), 0, 'preloaded again, nothing is sent');
set($copy, 'RESET whisperer.enabled');
$copy->wait_settled('shop');
is(ids('/shop'), '5', 'until it is on');
$copy->stop;

done_testing();
