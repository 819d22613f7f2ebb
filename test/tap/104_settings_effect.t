# What the settings do, end to end: nonsense in them is tested in sql/settings.sql.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new(listen => [ { name => 'main' }, { name => 'silent', accept => 'hang' } ]);
# What hangs here is answered in the end, however slow the machine is.
my $node = Whisperer::Node->started('main', settings => 'whisperer.request_timeout = 60');
sub sql { return $node->safe_psql('postgres', $_[0]); }
# What the worker does follows the reload at once, or soon: each test waits for the effect, and not for the setting.
sub set
{
	my (%settings) = @_;
	sql(defined $settings{$_} ? "ALTER SYSTEM SET whisperer.$_ = $settings{$_}" : "ALTER SYSTEM RESET whisperer.$_") for sort keys %settings;
	sql('SELECT pg_reload_conf()');
	return;
}
my $number = 0;
# A subscription of its own: (event type, id).
sub subscribe
{
	my ($arguments, $url) = @_;
	my $type = 'type-' . ++$number;
	sql("SELECT whisperer.register_event_type('$type')");
	$url //= $receiver->url("/$type");
	return ($type, sql(qq{SELECT whisperer.subscribe('$type', '$url'} . ($arguments ? ", $arguments" : '') . ')'));
}
sub raise { my ($type, $n) = @_; sql("SELECT count(whisperer.deliver_event(jsonb_build_object('n', n), '$type')) FROM generate_series(1, @{[$n // 1]}) n"); return; }
sub until_row { my ($type, $columns, $expected) = @_; return $node->poll_until('postgres', "SELECT $columns FROM whisperer.webhook_events WHERE event_type = '$type'", $expected); }

# ---- request_timeout: one number, two, the subscription's own.
for my $case ([ q('0.5'), 'no response within 0.5 s' ], [ q('60, 0.4'), 'no response within 0.4 s' ], [ q('(60, 0.3)'), 'no response within 0.3 s' ])
{
	my ($value, $error) = @$case;
	set(request_timeout => $value);
	my ($type) = subscribe(q(retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}'));
	$receiver->answer("/$type", { hang => 'request' });
	raise($type);
	until_row($type, "error LIKE '$error (%'", 't');
	pass("request_timeout = $value");
	sql("SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions WHERE event_type = '$type'");
}
{
	# The handshake belongs to connecting: a port that accepts and says nothing.
	set(request_timeout => q('0.4, 60'));
	my ($type) = subscribe('', $receiver->url('/', port => 'silent', scheme => 'https'));
	raise($type);
	until_row($type, "error LIKE 'no connection within 0.4 s (%' AND response_http_status IS NULL", 't');
	pass('request_timeout: the first number is for the connection');
	sql("SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions WHERE event_type = '$type'");
}
set(request_timeout => undef);
for my $own ('0.6', '[60, 0.6]', '"60,0.6"', '"(60, 0.6)"')
{
	my ($type, $id) = subscribe(qq(retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}', config => '{"request_timeout": $own}'));
	$receiver->answer("/$type", { hang => 'request' });
	raise($type);
	until_row($type, "error LIKE 'no response within 0.6 s (%'", 't');
	pass("config.request_timeout $own");
	sql("SELECT whisperer.unsubscribe($id)");
}

# ---- max_attempts.
is(sql('SHOW whisperer.max_attempts'), '18', 'max_attempts: 18');
set(max_attempts => 2);
my ($type) = subscribe(q(retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}'));
my ($own) = subscribe(q(retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}', config => '{"max_attempts": 4}'));
$receiver->answer("/$_", { status => 500 }) for $type, $own;
raise($_) for $type, $own;
until_row($type, "concat_ws('|', state, retry_count)", 'failed|2');
until_row($own, "concat_ws('|', state, retry_count)", 'failed|4');
pass('max_attempts, and the subscription\'s own');
set(max_attempts => undef);

# ---- max_payload_size: one byte more is too much, for deliver_event and for triggers.
($type) = subscribe();
my $frame = length '{"x": ""}';
my $sized = sub { my ($size) = @_; return $node->psql('postgres', "SET whisperer.max_payload_size = '2kB'; SELECT count(whisperer.deliver_event(jsonb_build_object('x', repeat('x', $size - $frame)), '$type'))"); };
my ($code) = $sized->(2048);
is($code, 0, 'max_payload_size: just as large');
($code, undef, my $error) = $sized->(2049);
like($error, qr/2049 bytes.*max_payload_size|max_payload_size.*2049/s, '... and one byte more, with both numbers') or diag($error);
$node->wait_settled;

# ---- max_response_size.
set(max_response_size => q('1kB'));
($type) = subscribe();
$receiver->answer("/$type", { body_size => 1024 }, { body_size => 1025 });
raise($type);
until_row($type, "response_content = repeat('x', 1024)", 't');
raise($type);
$node->poll_until('postgres', "SELECT count(*) FROM whisperer.webhook_events WHERE event_type = '$type' AND response_content LIKE repeat('x', 1024) || '_[whisperer: the response was longer than 1024 bytes%'", 1);
pass('max_response_size');
set(max_response_size => undef);

# ---- max_in_flight, max_in_flight_per_subscription, config.max_in_flight: never more requests at once, and that many.
my ($marker) = subscribe();
sub most_active
{
	my ($n, @types) = @_;
	$receiver->forget;
	$receiver->answer("/$_", { status => 200 }) for @types;
	raise($_, 100) for @types;                    # the window opens as the receiver proves itself
	$node->wait_settled;
	$receiver->answer("/$_", { hang => 'request' }) for @types;
	raise($_, 50) for @types;
	my $active = sub { my $statistics = $receiver->statistics->{active}; my $sum = 0; $sum += $statistics->{"/$_"} // 0 for @types; return $sum; };
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	Time::HiRes::usleep(20_000) while $active->() < $n && time() < $end;
	my $reached = $active->();
	# Something else, raised later, has come: by now more would have been sent, too, if it might.
	raise($marker);
	$receiver->await("/$marker", 1);
	$receiver->release("/$_") for @types;
	$receiver->answer("/$_", { status => 200 }) for @types;
	for (1 .. 500) { last if !sql("SELECT count(*) FROM whisperer.pending WHERE event_type = '$types[0]'"); $receiver->release("/$_") for @types; }
	$node->wait_settled;
	my $most = $receiver->statistics->{most_active};
	return join ' ', $reached, map { $most->{"/$_"} } @types;
}
my ($limited) = subscribe(q(config => '{"max_in_flight": 3}'));
is(most_active(3, $limited), '3 3', 'config.max_in_flight: so many at once, and no more');
set(max_in_flight_per_subscription => 5);
my ($free) = subscribe();
is(most_active(5, $free), '5 5', 'max_in_flight_per_subscription');
my ($wider) = subscribe(q(config => '{"max_in_flight": 9}'));
is(most_active(9, $wider), '9 9', 'config.max_in_flight takes precedence, upwards too');
set(max_in_flight_per_subscription => undef);

# max_in_flight is the worker's: three subscriptions that may have 32 each fill it, and that is all.
my @together = map { (subscribe())[0] } 1 .. 3;
raise($_, 100) for @together;
$node->wait_settled;
set(max_in_flight => 8);
raise($together[0]);
$receiver->await("/$together[0]", 101);
$receiver->answer("/$_", { hang => 'request' }) for @together;
sql("SELECT count(whisperer.deliver_event('{}', t)) FROM generate_series(1, 50), unnest('{" . join(',', @together) . "}'::text[]) t");
my $in_flight = q{SELECT in_flight FROM whisperer.workers WHERE kind = 'delivery' AND database = 'postgres'};
$node->poll_until('postgres', $in_flight, 8);
my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
Time::HiRes::usleep(20_000) while $receiver->statistics->{held} < 8 && time() < $end;
is($receiver->statistics->{held}, 8, 'max_in_flight: the worker has so many requests out');
is(sql($in_flight), 8, '... and no more');
$receiver->answer("/$_", { status => 200 }) for @together;
$receiver->release;
$node->wait_settled;
set(max_in_flight => undef);

# ---- enabled: off and on, for all and for one database; what was raised meanwhile waits; a user may not.
($type) = subscribe();
set(enabled => 'off');
$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'disabled');
raise($type, 3);
is(sql("SELECT count(*) FROM whisperer.pending WHERE event_type = '$type' AND retry_count = 0"), '3', 'enabled = off: it waits');
set(enabled => undef);
$node->wait_settled;
is($receiver->count(path => "/$type"), 3, '... and is sent when it is on again');
sql('CREATE DATABASE other');
$node->create_whisperer('other');
$node->safe_psql('other', qq{SELECT whisperer.register_event_type('there'); SELECT whisperer.subscribe('there', '@{[$receiver->url('/there')]}')});
sql('ALTER DATABASE postgres SET whisperer.enabled = off');
$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'postgres'}, 'disabled');
raise($type);
$node->safe_psql('other', q{SELECT whisperer.deliver_event('{}', 'there')});
$receiver->await('/there', 1);
is($receiver->count(path => "/$type"), 3, 'off in one database: the other one sends');
sql('ALTER DATABASE postgres RESET whisperer.enabled');
$receiver->await("/$type", 4);
pass('and on again');
sql('CREATE ROLE somebody');
(undef, undef, $error) = $node->psql('postgres', 'SET ROLE somebody; SET whisperer.enabled = off');
like($error, qr/permission denied/, 'enabled is set by superusers');

# ---- workers: 1, 2, 1 while delivering: nothing is lost, nothing doubled, and two share the work.
my @many = map { (subscribe())[0] } 1 .. 8;
my $raise_many = 'SELECT count(whisperer.deliver_event(jsonb_build_object(\'n\', n), t)) FROM generate_series(1, 250) n, unnest(\'{' . join(',', @many) . '}\'::text[]) t';
$receiver->forget;
sql($raise_many);
set(workers => 2);
sql($raise_many);
$node->delivery_pids('postgres', 2);
sql($raise_many);
set(workers => undef);
sql($raise_many);
$node->delivery_pids('postgres', 1);
$node->wait_settled;
for my $path (map { "/$_" } @many)
{
	my @ids = map { $_->{id} } $receiver->requests(path => $path, brief => 1);
	my %ids = map { $_ => 1 } @ids;
	is(scalar(@ids) . ' ' . keys %ids, '1000 1000', "$path: each delivery once, while the number of workers changed");
}
is(sql(q{SELECT count(*) FROM whisperer.webhook_events WHERE retry_count > 1 AND event_type IN ('} . join("', '", @many) . "')"), '0', 'in one attempt each');

# ---- retention: by itself, what was settled before, and nothing that is pending.
my ($kept) = subscribe(q(retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 3000}}'));
$receiver->answer("/$kept", { status => 500 });
raise($kept);
until_row($kept, 'retry_count', 1);
is(sql('SHOW whisperer.retention'), '12 weeks', 'retention: 12 weeks');
sql(q{UPDATE whisperer.history SET modified_date = now() - interval '2 days' WHERE event_type = 'type-1' OR event_type = '} . $many[0] . q{'});
my $old = sql(qq{SELECT count(*) FROM whisperer.webhook_events WHERE modified_date < now() - interval '1 day'});
my $all = sql('SELECT count(*) FROM whisperer.webhook_events');
cmp_ok($old, '>=', 1000, 'some are old');
set(retention => q('1 day'));
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.webhook_events', $all - $old);
pass('retention: what is older goes by itself');
is(sql("SELECT state FROM whisperer.webhook_events WHERE event_type = '$kept'"), 'pending', '... what is pending stays');
sql("UPDATE whisperer.history SET modified_date = now() - interval '2 years' WHERE event_type = '$many[1]'");
set(retention => 0);
sql("SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions WHERE event_type = '$kept'");

# ---- safety_scan_interval: what nobody announced is found all the same.
set(safety_scan_interval => 1);
sql(q{UPDATE whisperer.delivery SET due = NULL});    # nothing is left in it: to be sure
$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'postgres'}, 'idle');
my ($quiet, $quiet_id) = subscribe();
$node->safe_psql('postgres', qq{INSERT INTO whisperer.delivery (uuid, subscription_id, xid, event_type, payload)
	VALUES ('00000000-0000-0000-0000-00000000abcd', $quiet_id, pg_current_xact_id(), '$quiet', '{}')});
$receiver->await("/$quiet", 1);
$node->wait_settled;
is($receiver->count(path => "/$quiet"), 1, 'safety_scan_interval: what nobody announced is found, once');
is(sql("SELECT count(*) FROM whisperer.webhook_events WHERE event_type = '$many[1]'"), '1000', 'retention = 0 kept all');

unlike($node->log_since(0), qr/\b(FATAL|PANIC):(?!.*terminating)/, 'nothing worse in the log');
$receiver->release;
# ---- ca_file: a file that is none of certificates is told once in the log, for each database, also when the worker starts.
sql('DROP DATABASE other');
my $no_certificates = $node->basedir . '/none.crt';
PostgreSQL::Test::Utils::append_to_file($no_certificates, "root:x:0:0\n");
my $log = $node->log_position;
my $warnings = sub { return join "\n", $node->log_since($log) =~ /WARNING: .*?(whisperer\.ca_file .*)/g };
my $until_warned = sub {
	my ($expected, $what) = @_;
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	while ($warnings->() ne $expected && time() < $end) { sql('SELECT 1') }
	is($warnings->(), $expected, $what);
};
set(ca_file => q('/nope'));
my $expected = q(whisperer.ca_file "/nope" could not be read: No such file or directory);
$until_warned->($expected, 'a ca_file that is not there is told');
set(ca_file => "'$no_certificates'");
$expected .= qq(\nwhisperer.ca_file "$no_certificates" has no certificate in it);
$until_warned->($expected, '... and one without a certificate');
my ($last) = subscribe();
set(max_response_size => q('3kB'));
sql("SELECT whisperer.deliver_event('{}', '$last')");
$receiver->await("/$last", 1);
is($warnings->(), $expected, '... once');
$node->restart;
$expected .= qq(\nwhisperer.ca_file "$no_certificates" has no certificate in it);
$until_warned->($expected, '... and again when a worker starts');
like($node->log_since($log), qr/HINT: .*PEM file of certificates that the server may read/, 'with a hint');

$node->stop;
done_testing();
