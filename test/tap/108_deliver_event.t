# deliver_event: what may be an instance, which subscriptions it is for, and what the caller gets.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql(qq{SELECT whisperer.register_event_type('e');
	SELECT whisperer.subscribe('e', '@{[$receiver->url('/eu')]}', config => '{"region": "eu", "nested": {"a": 1, "b": [1, 2]}, "max_attempts": 5}');
	SELECT whisperer.subscribe('e', '@{[$receiver->url('/us')]}', config => '{"region": "us"}');
	SELECT whisperer.subscribe('e', '@{[$receiver->url('/none')]}');
	CREATE TABLE item (id int, name text); INSERT INTO item VALUES (1, 'one');
	CREATE TYPE pair AS (x int, y text); CREATE DOMAIN two AS pair;
	CREATE DOMAIN object AS jsonb CHECK (jsonb_typeof(VALUE) IS DISTINCT FROM 'array'); CREATE DOMAIN deeper AS object; CREATE DOMAIN written AS json;
	CREATE DOMAIN number AS int});

# What is sent for an instance, or the SQLSTATE.
sub sent_for
{
	my ($instance) = @_;
	$receiver->forget;
	my ($code, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT whisperer.deliver_event($instance, 'e', config_filter => '{\"region\": \"us\"}') FROM item i", on_error_stop => 1);
	return $error =~ /ERROR:  (\w{5}): / ? $1 : "? $error" if $code != 0;
	$node->wait_settled;
	return join ' ', map { $_->{body} =~ /"payload": (.*)\}$/s } $receiver->requests;
}
is(sent_for($_->[0]), $_->[1], "instance: $_->[0]") for (
	[ 'i', '{"id": 1, "name": "one"}' ], [ 'ROW(1, \'x\')', '{"f1": 1, "f2": "x"}' ], [ 'ROW(1, \'x\')::pair', '{"x": 1, "y": "x"}' ],
	[ q('{"b": 1, "a": 2}'), '{"a": 2, "b": 1}' ], [ q('{"b": 1, "a": 2, "b": 3}'::json), '{"a": 2, "b": 3}' ], [ q('{}'::jsonb), '{}' ],
	[ q('{"x": 1}'::text), '{"x": 1}' ], [ q('{"b": 1, "a": 2}'::deeper), '{"a": 2, "b": 1}' ],
	[ q('{"b": 1, "a": 2}'::written), '{"a": 2, "b": 1}' ], [ q(ROW(1, 'x')::two), '{"x": 1, "y": "x"}' ], [ q('1'::object), '22023' ], [ '1::number', '22023' ], [ q(ROW(NULL::int, NULL::text)::pair), '{"x": null, "y": null}' ],
	[ 'NULL', '22023' ], [ 'NULL::item', '22023' ], [ 'NULL::jsonb', '22023' ], [ q('[1]'::jsonb), '22023' ], [ q('1'::jsonb), '22023' ],
	[ q('null'::jsonb), '22023' ], [ q('[1]'::json), '22023' ], [ q('nonsense'), '22023' ], [ q('"text"'), '22023' ], [ q('{"a": }'), '22023' ],
	[ '1', '22023' ], [ 'now()', '22023' ], [ 'ARRAY[1]', '22023' ], [ 'true', '22023' ], [ 'ARRAY[i]', '22023' ]);

# config_filter: whose own keys contain it.
sub how_many
{
	my ($filter) = @_;
	my ($code, $out, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT cardinality(whisperer.deliver_event('{}', 'e', config_filter => $filter))", on_error_stop => 1);
	return $code == 0 ? $out : $error =~ /ERROR:  (\w{5}): / ? $1 : "? $error";
}
is(how_many($_->[0]), $_->[1], "config_filter $_->[0]") for (
	[ 'NULL', 3 ], [ q('{}'), 3 ], [ q('{"region": "eu"}'), 1 ], [ q('{"nested": {"a": 1}}'), 1 ], [ q('{"nested": {"b": [2]}}'), 1 ],
	[ q('{"nested": {"a": 2}}'), 0 ], [ q('{"region": "eu", "nested": {}}'), 1 ], [ q('{"other": null}'), 0 ],
	[ q('{"max_attempts": 5}'), '22023' ], [ q('{"auth": {}}'), '22023' ], [ q('[]'), '22023' ], [ q('"eu"'), '22023' ]);
for my $case ([ q(SELECT whisperer.deliver_event('{}', 'unknown')), 'WH004' ], [ q(SELECT whisperer.deliver_event('{}', NULL)), '22023' ],
	[ q(SELECT whisperer.deliver_event('{}', 'e', NULL)), '22023' ], [ q(SELECT whisperer.deliver_event('{}'::jsonb, 'e', event_uuid => 'x')), '22P02' ],
	[ q(SELECT whisperer.deliver_event('{}', '')), '22023|WH004' ])
{
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$case->[0]", on_error_stop => 1);
	like($error, qr/ERROR:  ($case->[1]): /, $case->[0]);
}

# The row as it is now, in this transaction; the subscriptions visible now.
$node->wait_settled;
$receiver->forget;
sql(qq{BEGIN; UPDATE item SET name = 'first'; SELECT whisperer.deliver_event(i, 'e') FROM item i; UPDATE item SET name = 'second';
	SELECT whisperer.subscribe('e', '@{[$receiver->url('/later')]}'); SELECT whisperer.deliver_event(i, 'e') FROM item i; COMMIT});
$receiver->await('/later', 1);
$node->wait_settled;
is(join(' ', sort map { $_->{body} =~ /"name": "(\w+)"/ } $receiver->requests(path => '/none')), 'first second', 'the row as it was at each call');
is(join(' ', map { $_->{body} =~ /"name": "(\w+)"/ } $receiver->requests(path => '/later')), 'second', 'a subscription sees what is raised after it, also in its own transaction');
my @ids = split /\n/, sql(q{SELECT unnest(whisperer.deliver_event('{"n": 1}', 'e'))});
$node->wait_settled;
is(join(' ', sort @ids), join(' ', sort map { $_->{id} } grep { $_->{body} =~ /"n": 1\}/ } $receiver->requests), 'returns the uuids of the deliveries');
is(scalar(keys %{ { map { $_ => 1 } @ids } }), 4, '... one for each subscription');

# At once, and not by a scan or a retry.
my ($sent) = sql(q{SELECT uuid FROM whisperer.webhook_events, LATERAL (SELECT request_datetimes[1] - created_date AS took) t WHERE NOT took < interval '60 s'}) =~ /(\S+)/;
is($sent // 'none', 'none', 'each was sent within moments of its commit');
unlike($node->log_since(0), qr/\b(FATAL|PANIC):/, 'nothing worse in the log');
# In a worker of a parallel query, called by a function that is wrongly marked as parallel safe, nothing that writes, nor what waits,
# may be called: PostgreSQL's own error, and not an internal one.
sql(q{CREATE FUNCTION safe(statement text) RETURNS void LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN EXECUTE statement; END'});
my $parallel = q{SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');};
my $uuid = '00000000-0000-0000-0000-000000000001';
for my $call (
	q{deliver_event('{}', 'e')}, q{deliver_event('{}'::jsonb, 'e')}, q{deliver_event('{}'::jsonb, 'e', _async => false)}, "deliver_event('{}', 'e', event_uuid => '$uuid')",
	q{subscribe('e', 'http://a/')}, q{subscribe('{"event_type": "e", "target_url": "http://a/"}')}, q{update_subscription(1, '{}')}, 'unsubscribe(1)',
	q{attach('item', 'e')}, q{detach('item', 'e')}, "retry('$uuid')", 'retry_failed()', "cancel('$uuid')", 'wait_until_settled()', 'prune()',
	q{register_event_type('f')}, q{update_event_type('e', '{}')}, q{unregister_event_type('e')}, q{register_countdown('c', 'f')}, q{unregister_countdown('c')},
	q{grant_access('postgres', 'deliver')}, q{revoke_access('postgres', 'deliver')}, q{reassign('postgres', 'postgres')}, 'resume()', 'reset_statistics()')
{
	my $literal = "SELECT whisperer.$call" =~ s/'/''/gr;
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$parallel\nSELECT safe('$literal')", on_error_stop => 1);
	my ($name) = $call =~ /^(\w+)/;
	like($error, qr/ERROR:  25000: cannot execute whisperer\.$name\(\) during a parallel operation/, "in a parallel worker: $call");
}

$node->stop;
done_testing();
