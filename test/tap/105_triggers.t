# Triggers: which rows of which tables raise which events, end to end.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub sqlstate
{
	my ($sql) = @_;
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 1);
	return $error =~ /ERROR:  ([0-9A-Z]{5}):/ ? $1 : "none: $error";
}
sql(qq{SELECT whisperer.register_event_type('t'); SELECT whisperer.subscribe('t', '@{[$receiver->url('/in')]}', config => '{"region": "eu"}')});

# raised($sql): the payloads that a script raises and that arrive, "relation payload", sorted.
sub raised
{
	my ($sql, $database_user) = @_;
	$receiver->forget;
	sql($sql);
	$node->wait_settled;
	my %relation = map { split /\|/ } split /\n/, sql('SELECT uuid, coalesce(relation::text, \'none\') FROM whisperer.webhook_events');
	return join "\n", sort map { $_->{body} =~ /"payload": (.*)\}$/s or die; "$relation{$_->{id}} $1" } $receiver->requests;
}
my $trigger = sub {
	my ($table, $events, $rest) = @_;
	return "CREATE TRIGGER w AFTER $events ON $table " . ($rest // 'FOR EACH ROW') . " EXECUTE FUNCTION whisperer.deliver_event_trigger('t')";
};

# ---- Row triggers: NEW, and OLD for a delete; a condition; some columns only.
sql('CREATE TABLE plain (id int PRIMARY KEY, v text)');
sql($trigger->('plain', 'INSERT OR UPDATE OR DELETE'));
is(raised("INSERT INTO plain VALUES (1, 'a'), (2, 'b'); UPDATE plain SET v = 'c' WHERE id = 1; DELETE FROM plain WHERE id = 2"),
	qq(plain {"v": "a", "id": 1}\nplain {"v": "b", "id": 2}\nplain {"v": "b", "id": 2}\nplain {"v": "c", "id": 1}), 'insert, update, delete');
is(raised("INSERT INTO plain VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = 'upserted'; INSERT INTO plain VALUES (1, 'y') ON CONFLICT DO NOTHING"),
	'plain {"v": "upserted", "id": 1}', 'ON CONFLICT: what was done');
is(raised("UPDATE plain SET v = v WHERE false; DELETE FROM plain WHERE id = 99"), '', 'no row, no event');
is(raised("TRUNCATE plain"), '', 'TRUNCATE raises nothing');
sql('DROP TRIGGER w ON plain');
sql($trigger->('plain', 'UPDATE OF v', q{FOR EACH ROW WHEN (OLD.v IS DISTINCT FROM NEW.v)}));
is(raised("INSERT INTO plain VALUES (1, 'a'), (2, 'b'); UPDATE plain SET v = 'a'; UPDATE plain SET id = id + 10"), 'plain {"v": "a", "id": 2}', 'WHEN, and columns');
sql('DROP TRIGGER w ON plain; TRUNCATE plain');

# ---- One event type and a filter among the arguments.
sql(q{CREATE TRIGGER eu AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('t', '{"region": "eu"}');
	CREATE TRIGGER us AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('t', '{"region": "us"}')});
is(raised("INSERT INTO plain VALUES (1, 'a')"), 'plain {"v": "a", "id": 1}', 'config_filter: of two triggers one finds a subscriber');
sql('DROP TRIGGER eu ON plain; DROP TRIGGER us ON plain; TRUNCATE plain');

# ---- Statement triggers, for each kind of statement; what a CTE and a MERGE do.
sql(q{CREATE TRIGGER i AFTER INSERT ON plain REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('t');
	CREATE TRIGGER u AFTER UPDATE ON plain REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('t');
	CREATE TRIGGER d AFTER DELETE ON plain REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('t')});
is(raised("INSERT INTO plain VALUES (1, 'a'), (2, 'b'); UPDATE plain SET v = 'c'; DELETE FROM plain WHERE id = 2; DELETE FROM plain WHERE false"),
	qq(plain {"v": "a", "id": 1}\nplain {"v": "b", "id": 2}\nplain {"v": "c", "id": 1}\nplain {"v": "c", "id": 2}\nplain {"v": "c", "id": 2}), 'statement triggers: each row of the transition table');
is(raised(q{MERGE INTO plain p USING (VALUES (1), (5)) s (id) ON p.id = s.id WHEN MATCHED THEN UPDATE SET v = 'm' WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'n')}),
	qq(plain {"v": "m", "id": 1}\nplain {"v": "n", "id": 5}), 'MERGE');
is(raised("COPY plain FROM STDIN;\n7\tcopied\n8\tä\n\\.\n"), qq(plain {"v": "copied", "id": 7}\nplain {"v": "\xc3\xa4", "id": 8}), 'COPY, statement trigger');
sql('DROP TRIGGER i ON plain; DROP TRIGGER u ON plain; DROP TRIGGER d ON plain; TRUNCATE plain');
sql(q{CREATE TRIGGER u AFTER UPDATE ON plain REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('t')});
is(raised("INSERT INTO plain VALUES (1, 'old'); UPDATE plain SET v = 'new'"), 'plain {"v": "old", "id": 1}', 'UPDATE with its old rows, as the trigger says');
sql('DROP TRIGGER u ON plain; TRUNCATE plain');
sql(q{CREATE TRIGGER u AFTER UPDATE ON plain REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('t')});
is(raised("INSERT INTO plain VALUES (1, 'old'); UPDATE plain SET v = 'new'"), 'plain {"v": "new", "id": 1}', 'UPDATE with both: the new rows');
sql('DROP TRIGGER u ON plain; TRUNCATE plain');

# ---- What a trigger must not be.
# Its maker hears it, not the first who writes to the table.
is(sqlstate($trigger->('plain', 'INSERT') =~ s/AFTER/BEFORE/r), '39P01', 'BEFORE');
for my $case (
	[ 'w AFTER INSERT ON plain FOR EACH STATEMENT', "'t'", 'without a transition table' ],
	[ 'w AFTER TRUNCATE ON plain FOR EACH STATEMENT', "'t'", 'TRUNCATE' ],
	[ 'w AFTER INSERT ON plain FOR EACH ROW', '', 'without an event type' ],
	[ 'w AFTER INSERT ON plain FOR EACH ROW', "'t', '{}', 'x'", 'with three arguments' ],
	[ 'w AFTER INSERT ON plain FOR EACH ROW', "'t', 'nonsense'", 'with a filter that is none' ],
	[ 'w AFTER INSERT ON plain FOR EACH ROW', "'t', '[]'", 'with a filter that is no object' ])
{
	my ($definition, $arguments, $name) = @$case;
	is(sqlstate("CREATE TRIGGER $definition EXECUTE FUNCTION whisperer.deliver_event_trigger($arguments)"),
		$name =~ /filter/ ? '22023' : '39P01', "a trigger $name");
}
is(sqlstate($trigger->('plain', 'INSERT') =~ s/'t'/'unknown'/r . '; INSERT INTO plain VALUES (1)'), 'WH004', 'with a type not registered: when it fires');
sql('DROP TRIGGER w ON plain');
is(sqlstate('SELECT whisperer.deliver_event_trigger()'), '39P01', 'called as a function');

# ---- COPY, row trigger; generated, dropped and added columns; a composite type, an array, a domain, a large value.
sql($trigger->('plain', 'INSERT'));
is(raised("COPY plain FROM STDIN;\n7\tcopied\n\\.\n"), 'plain {"v": "copied", "id": 7}', 'COPY, row trigger');
sql(q{CREATE TYPE pair AS (x int, y text); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE TABLE odd (id int, gone text, twice int GENERATED ALWAYS AS (id * 2) STORED, p pair, a int[], d positive, "Name" text)});
sql($trigger->('odd', 'INSERT OR DELETE'));
sql('ALTER TABLE odd DROP COLUMN gone; ALTER TABLE odd ADD COLUMN added text DEFAULT \'default\'');
is(raised(q{INSERT INTO odd (id, p, a, d, "Name") VALUES (1, (1, 'y'), '{1,NULL}', 5, repeat('é', 3)); DELETE FROM odd}),
	join("\n", (qq(odd {"a": [1, null], "d": 5, "p": {"x": 1, "y": "y"}, "id": 1, "Name": "\xc3\xa9\xc3\xa9\xc3\xa9", "added": "default", "twice": 2})) x 2), 'odd columns');
sql('ALTER TABLE odd ALTER COLUMN "Name" SET STORAGE EXTERNAL');
is(raised(q{INSERT INTO odd (id, "Name") VALUES (1, repeat('x', 100000))}) =~ /"Name": "(x+)"/ && length $1 == 100000 ? 'whole' : 'not', 'whole', 'a value stored out of line');

# ---- Default serialization does not depend on the session.
sql(q{CREATE TABLE forms (t timestamptz, i interval, b bytea, f float8, r float4, d date)}); sql($trigger->('forms', 'INSERT'));
my $row = q{INSERT INTO forms VALUES ('2024-02-29 12:00:00+02', '1 year 2 mons 3 days 04:05:06', '\xdeadbeef', 0.1::float8 + 0.2, 1.1, '2024-02-29');};
is(raised("SET timezone = 'Asia/Tokyo'; SET intervalstyle = postgres_verbose; SET bytea_output = escape; SET extra_float_digits = -15; SET datestyle = 'German'; $row"),
	'forms {"b": "\\\\xdeadbeef", "d": "2024-02-29", "f": 0.30000000000000004, "i": "P1Y2M3DT4H5M6S", "r": 1.1, "t": "2024-02-29T10:00:00+00:00"}', 'UTC, ISO 8601, hex, shortest floats');
is(sql("SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; BEGIN; $row SELECT current_setting('timezone') || current_setting('datestyle'); ROLLBACK"), 'Asia/TokyoGerman, DMY', 'and the session keeps its own');

# ---- Partitioned tables: the table on which the trigger was made, and its row type, also where a partition's columns differ.
sql(q{CREATE TABLE sale (id int, region text, price numeric) PARTITION BY LIST (region);
	CREATE TABLE sale_eu PARTITION OF sale FOR VALUES IN ('eu');
	CREATE TABLE sale_us (price numeric, junk int, region text, id int); ALTER TABLE sale_us DROP COLUMN junk;
	ALTER TABLE sale ATTACH PARTITION sale_us FOR VALUES IN ('us')});
sql($trigger->('sale', 'INSERT OR UPDATE OR DELETE'));
is(raised("INSERT INTO sale VALUES (1, 'eu', 1.0), (2, 'us', 2.0); INSERT INTO sale_us (id, region) VALUES (3, 'us')"),
	qq(sale {"id": 1, "price": 1.0, "region": "eu"}\nsale {"id": 2, "price": 2.0, "region": "us"}\nsale {"id": 3, "price": null, "region": "us"}), 'partitions: the whole table');
is(raised("UPDATE sale SET price = 9 WHERE id = 2"), 'sale {"id": 2, "price": 9, "region": "us"}', 'an update within a partition');
is(raised("UPDATE sale SET region = 'us' WHERE id = 1"),
	qq(sale {"id": 1, "price": 1.0, "region": "eu"}\nsale {"id": 1, "price": 1.0, "region": "us"}), 'an update that moves a row: a delete and an insert');
sql(q{CREATE TABLE sale_asia PARTITION OF sale FOR VALUES IN ('asia') PARTITION BY RANGE (id); CREATE TABLE sale_asia_1 PARTITION OF sale_asia DEFAULT});
is(raised("COPY sale FROM STDIN;\n4\tasia\t4\n\\.\n"), 'sale {"id": 4, "price": 4, "region": "asia"}', 'COPY into a partition of a partition, made later');
sql('DROP TRIGGER w ON sale; TRUNCATE sale');
sql(q{CREATE TRIGGER s AFTER INSERT ON sale REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('t')});
is(raised("INSERT INTO sale VALUES (1, 'eu', 1.0), (2, 'us', 2.0)"),
	qq(sale {"id": 1, "price": 1.0, "region": "eu"}\nsale {"id": 2, "price": 2.0, "region": "us"}), 'a statement trigger of a partitioned table');

# ---- Inheritance: a trigger is the table's own.
sql('CREATE TABLE child (more int) INHERITS (plain)');
is(raised("INSERT INTO child VALUES (1, 'child', 2); INSERT INTO plain VALUES (50, 'parent')"), 'plain {"v": "parent", "id": 50}', 'a child table has no trigger of its parent');

# ---- Replicas, read-only transactions, other roles, renamed tables, the relation column.
is(raised("SET session_replication_role = replica; INSERT INTO plain VALUES (51, 'replica')"), '', 'session_replication_role = replica: does not fire');
sql('ALTER TABLE plain ENABLE ALWAYS TRIGGER w');
is(raised("SET session_replication_role = replica; INSERT INTO plain VALUES (52, 'replica')"), 'plain {"v": "replica", "id": 52}', '... unless enabled so');
is(sqlstate(q{BEGIN READ ONLY; SELECT whisperer.deliver_event('{}', 't')}), '25006', 'read-only: PostgreSQL\'s own error');
is(sqlstate(q{BEGIN READ ONLY; SELECT whisperer.deliver_event('{}'::jsonb, 't', config_filter => '{"region": "nobody"}')}), '25006', '... also when nobody subscribes');
sql('CREATE ROLE writer LOGIN; GRANT INSERT ON plain TO writer; CREATE SCHEMA shop');
is(raised("SET ROLE writer; INSERT INTO plain VALUES (53, 'writer')"), 'plain {"v": "writer", "id": 53}', 'any role that may write the table');
sql('ALTER TABLE plain SET SCHEMA shop; ALTER TABLE shop.plain RENAME TO "Renamed table"; ALTER TRIGGER w ON shop."Renamed table" RENAME TO w2');
is(raised(q{INSERT INTO shop."Renamed table" VALUES (54, 'renamed')}), 'shop."Renamed table" {"v": "renamed", "id": 54}', 'a renamed table');
sql('DROP TABLE shop."Renamed table" CASCADE');
is(sql(q{SELECT relation IS NULL FROM whisperer.webhook_events WHERE request_payload->'payload'->>'id' = '54'}), 't', 'a dropped table: relation is null');
is(raised(q{SELECT whisperer.deliver_event('{"by": "hand"}'::jsonb, 't')}), 'none {"by": "hand"}', 'deliver_event: no relation');

# ---- trigger_errors.
sql("CREATE TABLE big (v text)"); sql($trigger->('big', 'INSERT'));
is(sqlstate("SET whisperer.max_payload_size = '1kB'; INSERT INTO big VALUES (repeat('x', 2000))"), '54000', 'error: the statement fails');
is(sql('SELECT count(*) FROM big'), '0', '... as a whole');
my (undef, undef, $warning) = $node->psql('postgres', "SET whisperer.max_payload_size = '1kB'; SET whisperer.trigger_errors = record; INSERT INTO big VALUES (repeat('x', 2000))");
is(scalar(() = $warning =~ /WARNING/g), 1, 'record: one warning');
is(sql('SELECT count(*) FROM big'), '1', '... and the statement goes on');
is(sql(q{SELECT state, retry_count, request_payload IS NULL, error ~ 'max_payload_size', relation FROM whisperer.failed}), 'failed|0|t|t|big', '... with a failed delivery');

unlike($node->log_since(0), qr/\b(FATAL|PANIC):/, 'nothing worse in the log');
$node->stop;
done_testing();
