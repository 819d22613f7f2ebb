# A dump restored into the database that it was made of is no copy: the workers are at work while its rows come, table by
# table, each in a transaction of its own, with the numbers of transactions past which the workers have read long ago.
# Everything is found all the same: by psql, and in the orders in which pg_restore -j may load the tables.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
$node->safe_psql('postgres', 'CREATE DATABASE d');
$node->create_whisperer('d');

sub sql { return $node->safe_psql('d', $_[0]) }

# What was pending when it was dumped: three without an attempt, and one that failed and waits for the next.
$receiver->answer('/again', { status => 500, times => 1 }, { status => 200 });
sql(qq{
	CREATE TABLE thing (id integer PRIMARY KEY);
	SELECT whisperer.register_event_type('thing');
	SELECT whisperer.attach('thing', 'thing');
	SELECT whisperer.subscribe('thing', '@{[$receiver->url('/in')]}', 'the secret');
	SELECT whisperer.register_event_type('again');
	SELECT whisperer.subscribe('again', '@{[$receiver->url('/again')]}', config => '{"auth": {"auth_type": "bearer", "token": "t0ken"}}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 3600}}');
	SELECT whisperer.deliver_event('{"id": 1}'::jsonb, 'again')});
$node->poll_until('d', q{SELECT retry_count FROM whisperer.pending}, '1');
$node->safe_psql('postgres', 'ALTER SYSTEM SET whisperer.enabled = off');
$node->reload;
$node->poll_until('d', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'd'}, 'disabled');
sql('INSERT INTO thing SELECT generate_series(2, 4)');
sql('UPDATE whisperer.delivery SET due = now() WHERE attempts = 1'); # its hour is over
my $dump = "$PostgreSQL::Test::Utils::tmp_check/d.sql";
$node->command_ok([ 'pg_dump', '--clean', '--if-exists', '-f', $dump, 'd' ], 'dumped');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET whisperer.enabled');
$node->reload;
$receiver->await('/in', 3);
sql(q{SELECT whisperer.retry(uuid) FROM whisperer.pending WHERE event_type = 'again'});
$receiver->await('/again', 2);
$node->wait_settled('d');

# What is restored arrives once more, with its secrets.
sub arrives
{
	my ($how) = @_;
	my @requests = $receiver->await('/in', 3);
	is(join(' ', sort map { $_->{body} =~ /"id": (\d+)/ } @requests), '2 3 4', "$how: what was pending arrives");
	is(join(' ', map { $_->[1] } $receiver->verify('/in', 'the secret')), 'ok ok ok', "$how: signed");
	my ($again) = $receiver->await('/again', 1);
	is($again->{header}{authorization}, 'Bearer t0ken', "$how: what waited for its next attempt, too, with its token");
	$node->wait_settled('d');
	sql('INSERT INTO thing VALUES (9)');
	$receiver->await('/in', 4);
	$node->wait_settled('d');
	is($receiver->count(path => '/in') . $receiver->count(path => '/again'), '41', "$how: each once, and new ones as before");
}

$receiver->forget;
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'd' ], 'restored by psql');
arrives('by psql');

# The same in pieces. Between them the workers have read past every transaction that there was: a probe arrives.
my $text = slurp_file($dump) =~ s/^\\(un)?restrict .*\n//mgr;
my %data;
$data{$1} = $& while $text =~ /^COPY \w+\.(\w+) .*?^\\\.\n/msg;
my ($before) = $text =~ /\A(.*?)^COPY /ms;
my ($after) = $text =~ /.*^\\\.\n(.*)\z/ms;
my $probes = 0;

sub load { sql(join "\n", @_) }

sub probe
{
	sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'probe')});
	$receiver->await('/probe', ++$probes);
	$node->poll_until('d', q{SELECT count(*) FROM whisperer.pending WHERE event_type = 'probe'}, '0');
}

sub begin
{
	$receiver->forget;
	$probes = 0;
	load($before, @data{qw(thing event_type_entry home)});
	sql(qq{SELECT setval('whisperer.subscription_id_seq', 1000);
		SELECT whisperer.register_event_type('probe');
		SELECT whisperer.subscribe('probe', '@{[$receiver->url('/probe')]}')});
	probe();
}

begin();
load(@data{qw(delivery event)});
probe();
load($data{subscription});
probe();
is($receiver->count(path => '/in') . $receiver->count(path => '/again'), '00', 'nothing is sent without its secrets');
load($data{subscription_secret}, $after);
arrives('subscriptions last');

begin();
load($data{subscription_secret});
load($data{subscription});
probe();
load(@data{qw(event delivery)}, $after);
arrives('deliveries last');

# A payload that several deliveries share may come after them: the attempt fails, and its countdown looks again, however often.
$receiver->forget;
sql(qq{
	SELECT whisperer.register_event_type('shared');
	SELECT whisperer.subscribe('shared', '@{[$receiver->url('/shared/')]}' || n, config => '{"max_attempts": 1000}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 1}}') FROM generate_series(1, 2) n});
sql(q{BEGIN;
	SELECT whisperer.deliver_event('{"id": 12}'::jsonb, 'shared');
	CREATE TABLE loaded_later AS TABLE whisperer.event;
	DELETE FROM whisperer.event;
	COMMIT});
my $without = q{FROM whisperer.pending WHERE error = 'the payload is missing from whisperer.event'};
$node->poll_until('d', "SELECT count(*) $without", '2');
is($receiver->count(path => "/shared/$_"), 0, "to $_ nothing is sent without its payload") for 1, 2;
sql('INSERT INTO whisperer.event TABLE loaded_later');
$node->wait_settled('d');
for my $to (1, 2)
{
	my ($request) = $receiver->await("/shared/$to", 1);
	like($request->{body}, qr/"id": 12/, "to $to it arrives when it has come");
}

# The net below: a row that a superuser changed without its number, or that came while triggers were disabled.
$node->safe_psql('postgres', q{ALTER SYSTEM SET whisperer.safety_scan_interval = '1s'});
$node->reload;
$node->poll_until('d', 'SHOW whisperer.safety_scan_interval', '1s');
sql(q{INSERT INTO thing VALUES (10)});
$node->wait_settled('d');
sql(q{UPDATE whisperer.subscription SET target_url = '} . $receiver->url('/moved') . q{' WHERE event_type = 'thing'});
my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
for (my $id = 11; !$receiver->count(path => '/moved') && time() < $end; $id++)
{
	sql("INSERT INTO thing VALUES ($id)");
	$node->wait_settled('d');
}
isnt($receiver->count(path => '/moved'), 0, 'a safety scan looks at all subscriptions');

$node->stop;
done_testing();
