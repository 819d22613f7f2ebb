# CREATE PUBLICATION … FOR ALL TABLES, as change data capture and upgrades by replication make it: PostgreSQL refuses UPDATE and
# DELETE on a published table that has no replica identity. Whatever writes to a table of whisperer's goes on.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
$node->init(allows_streaming => 'logical');
$node->start;
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub until_true { return $node->poll_until('postgres', $_[0]); }
my $log = $node->log_position;

# Before the extension: not even its first row is written without.
sql('CREATE PUBLICATION everything FOR ALL TABLES');
sql(q{SELECT pg_create_logical_replication_slot('capture', 'pgoutput')});
$node->create_whisperer('postgres');
sql(q{
	CREATE ROLE app;
	CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO app;
	CREATE TABLE app.called (uuid text); GRANT INSERT ON app.called TO app;
	CREATE FUNCTION app.callback(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		$$INSERT INTO app.called VALUES (response->>'event_uuid')$$;
	CREATE FUNCTION app.broken(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE plpgsql AS
		$$BEGIN RAISE 'broken'; END$$;
	CREATE FUNCTION app.at_once(retry_count integer, kwargs jsonb) RETURNS numeric LANGUAGE sql AS 'SELECT 0.05'});
# A copy that is resumed writes this row anew.
sql(q{SELECT whisperer.register_event_type('good'); UPDATE whisperer.home SET system_identifier = 1; SELECT whisperer.resume()});
sql(qq{
	SELECT whisperer.register_countdown('at_once', 'app.at_once');
	SELECT whisperer.register_event_type(t) FROM unnest('{slow,held,gone}'::text[]) t;
	SELECT whisperer.grant_access('app', level) FROM unnest('{deliver,subscribe}'::text[]) level;
	SELECT whisperer.subscribe('good', '@{[$receiver->url('/good')]}', callback => 'app.callback');
	SELECT whisperer.subscribe('good', '@{[$receiver->url('/broken')]}', callback => 'app.broken');
	SELECT whisperer.subscribe('slow', '@{[$receiver->url('/slow')]}', retry_countdown_config => '{"choice": "at_once"}');
	SELECT whisperer.subscribe('held', '@{[$receiver->url('/held')]}');
	SELECT whisperer.subscribe('gone', '@{[$receiver->url('/gone')]}')});
$receiver->answer('/slow', { status => 500, times => 2 }, { status => 200 });
$receiver->answer('/held', { status => 503, headers => [ [ 'Retry-After', '2' ] ] }, { status => 200 });
$receiver->answer('/gone', { status => 410 });

# Callbacks that succeed, and that fail; custom countdowns.
sql(q{SELECT whisperer.deliver_event('{}', 'good')});
until_true('SELECT count(*) = 1 FROM app.called');
until_true(q{SELECT count(*) = 1 FROM whisperer.function_failures WHERE error ~ 'broken'});
until_true('SELECT count(*) = 0 FROM whisperer.job');
pass('callbacks are called');
sql(q{SELECT whisperer.deliver_event('{}', 'slow')});
$node->wait_settled;
is(sql(q{SELECT state, retry_count FROM whisperer.webhook_events WHERE event_type = 'slow'}), 'delivered|3', 'custom countdowns are computed');

# A synchronous delivery reports to the worker what it learnt of the receiver, and the worker takes the report.
for my $type (qw(held gone))
{
	sql("SELECT whisperer.deliver_event('{}', '$type', _async => false)");
	until_true('SELECT count(*) = 0 FROM whisperer.receiver_report');
}
is(sql(q{SELECT is_active, inactive_reason ~ '410' FROM whisperer.subscriptions WHERE event_type = 'gone'}), 'f|t', 'a report of a 410 is taken');
sql(q{SELECT whisperer.deliver_event('{}', 'good')});
until_true('SELECT count(*) = 2 FROM app.called');
$node->wait_settled;
is(sql(q{SELECT state, retry_count FROM whisperer.webhook_events WHERE event_type = 'held'}), 'delivered|2', 'Retry-After of a synchronous delivery ends');

# Counters are saved again and again; the row is there already.
until_true('SELECT delivered >= 6 FROM whisperer.statistics_total');
sql('SELECT whisperer.reset_statistics()');
sql(q{SELECT whisperer.deliver_event('{}', 'good')});
until_true('SELECT delivered BETWEEN 1 AND 3 FROM whisperer.statistics_total');
pass('statistics are reset and saved');
$node->wait_settled;
until_true('SELECT count(*) = 3 FROM app.called');
until_true('SELECT count(*) = 0 FROM whisperer.job'); # nor is any failure to come

# Administration.
cmp_ok(sql(q{SELECT whisperer.prune('1 microsecond')}), '>=', 8, 'prune');
sql(q{SELECT whisperer.grant_access('app', 'deliver', 'gone')});
sql(q{SELECT whisperer.unregister_event_type('gone')});
is(sql(q{SELECT count(*) FROM whisperer.access_grant WHERE event_type = 'gone'}), '0', 'unregister_event_type, with grants for that type');
sql(q{SELECT whisperer.revoke_access('app', level) FROM unnest('{deliver,subscribe}'::text[]) level});
is(sql('SELECT count(*) FROM whisperer.access_grant'), '0', 'revoke_access');
sql(q{SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions});
# Maintenance removes old failures of functions, too.
sql(q{ALTER SYSTEM SET whisperer.retention = '1 microsecond'});
sql('SELECT pg_reload_conf()');
until_true('SELECT count(*) = 0 FROM whisperer.function_failure');
pass('maintenance');

# Whoever follows the stream has what the tables have: rows written and deleted without SQL are in it, the old ones with their key.
$node->poll_until('postgres', q{
	SELECT string_agg(concat_ws(' ', oid::regclass, came - went, there), ', ' ORDER BY oid::regclass::text)
	FROM (SELECT c.oid, count(*) FILTER (WHERE kind = ascii('I')) AS came, count(*) FILTER (WHERE kind = ascii('D')) AS went,
			(xpath('/row/count/text()', query_to_xml('SELECT count(*) FROM ' || c.oid::regclass, false, true, '')))[1]::text::bigint AS there
		FROM pg_class c LEFT JOIN (SELECT substring(data FROM 2 FOR 4) AS relation, get_byte(data, 0) AS kind
			FROM pg_logical_slot_peek_binary_changes('capture', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')) changes
			ON relation = int4send(c.oid::integer)
		WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind = 'r' GROUP BY c.oid) ledger
	WHERE came - went <> there}, '');
cmp_ok(sql(q{SELECT count(*) FROM pg_logical_slot_peek_binary_changes('capture', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')
	WHERE get_byte(data, 0) = ascii('D') AND substring(data FROM 2 FOR 4) = int4send('whisperer.delivery'::regclass::oid::integer)}),
	'>=', 8, 'whoever follows the stream knows which deliveries are settled');
unlike($node->log_since($log), qr/replica identity/, 'and the log knows of no trouble');

$node->stop;
done_testing();
