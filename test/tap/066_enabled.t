# whisperer.enabled of one database against that of all: what is enabled works there in everything, and for what is not no
# process is started for nothing.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
$node->init(settings => "log_min_messages = debug1\nwhisperer.enabled = off\nwhisperer.retention = 0\nwhisperer.callback_timeout = 600s");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
for my $database (qw(postgres shop))
{
	$node->create_whisperer($database);
	$node->safe_psql($database, qq{
		CREATE TABLE called (n int);
		-- It waits for a lock, also for longer than the ten seconds that are the rule.
		CREATE FUNCTION note(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql SET lock_timeout = 0 AS
			\$\$ INSERT INTO public.called VALUES ((instance->>'n')::int) \$\$;
		CREATE FUNCTION soon(retry_count integer, kwargs jsonb) RETURNS double precision LANGUAGE sql AS 'SELECT 0.05';
		SELECT whisperer.register_countdown('soon', 'soon');
		SELECT whisperer.register_event_type('made');
		SELECT whisperer.subscribe('made', '@{[$receiver->url("/$database")]}', callback => 'note', retry_countdown_config => '{"choice": "soon", "kwargs": {}}')});
}
sub sql { my ($database, $sql) = @_; return $node->safe_psql($database, $sql); }
sub set { my ($setting) = @_; sql('postgres', "ALTER SYSTEM $setting"); sql('postgres', 'SELECT pg_reload_conf()'); return; }
sub deliver { my ($database, $n) = @_; return sql($database, "SELECT whisperer.deliver_event(jsonb_build_object('n', $n), 'made')"); }
sub state_is { $node->poll_until('postgres', "SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = '$_[0]'", $_[1]); return; }

# Processes of a kind that the postmaster began to start in a database since then.
sub started
{
	my ($kind, $database, $since) = @_;
	my $times = () = $node->log_since($since) =~ /starting background worker process "whisperer (?:$kind) of $database"/g;
	return $times;
}

# Until retention has looked at the database so often; with something to remove each time, and another one each time, so that
# it is time to look.
my $retention = 0;
sub prune
{
	my ($database) = @_;
	set("SET whisperer.retention = '@{[++$retention]} microseconds'");
	$node->poll_until($database, 'SELECT count(*) FROM whisperer.webhook_events', '0');
	return;
}

# --- off for all, on for one
my $log = $node->log_position;
$receiver->answer('/shop', { status => 500 }, { status => 200 });
deliver('shop', 1);
deliver('postgres', 1);
sql('postgres', 'ALTER DATABASE shop SET whisperer.enabled = on');
$node->wait_settled('shop');
pass('on for one database: retries go by a custom countdown');
$node->poll_until('shop', 'SELECT count(*) FROM called', '2');
pass('callbacks are called');
prune('shop');
pass('what is old is removed');
is(started('callback|countdown|maintenance', 'postgres', $log), 0, 'for the other database none of these processes is started');
is($receiver->count(path => '/postgres'), 0, 'and nothing is sent from it');

# --- on for all, off for one, with a callback that waits
set('SET whisperer.retention = 0');
my $holder = $node->background_psql('shop', on_error_die => 1);
$holder->query_safe('BEGIN; LOCK TABLE called');
deliver('shop', 2);
$node->wait_settled('shop');
my $busy = q{FROM pg_stat_activity WHERE backend_type = 'whisperer callback' AND datname = 'shop' AND wait_event_type = 'Lock'};
$node->poll_until('postgres', "SELECT count(*) $busy", '1');
set('SET whisperer.enabled = on');
sql('postgres', 'ALTER DATABASE shop SET whisperer.enabled = off');
state_is('shop', 'disabled');
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.workers WHERE kind = 'callback' AND database = 'shop'}, '0');
$holder->query_safe('ROLLBACK');
$holder->quit;
$log = $node->log_position;
# Raised later, in the other database, everything is done; in this one, nothing.
$node->wait_settled('postgres');
prune('postgres');
# While one database's maintenance is there, another's is put off for a second.
my $end = time() + 3;
for (my $n = 2; time() < $end; $n++)
{
	deliver('postgres', $n);
	$node->wait_settled('postgres');
	$node->poll_until('postgres', "SELECT count(*) FROM called WHERE n = $n", '1');
}
is(started('maintenance', 'postgres', $log), 1, 'on for all: the other database has its processes');
is(started('callback|countdown|maintenance', 'shop', $log), 0, 'off for one: none is started there for nothing');
is(sql('shop', 'SELECT count(*) FROM whisperer.job'), '1', 'the callback waits');
sql('postgres', 'ALTER DATABASE shop RESET whisperer.enabled');
$node->poll_until('shop', 'SELECT count(*) FROM whisperer.job', '0');
$node->poll_until('shop', 'SELECT count(*) FROM called WHERE n = 2', '1');
prune('shop');
pass('on again: it is called, and what is old is removed');

$node->stop;
done_testing();
