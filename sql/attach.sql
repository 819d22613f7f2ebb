-- attach() and detach(): the triggers they make, and which events those raise.
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS whisperer CASCADE;
CREATE EXTENSION whisperer;
RESET client_min_messages;

CREATE TABLE package (id int PRIMARY KEY, name text, price numeric, "odd column" int);
CREATE VIEW triggers AS SELECT tgrelid::regclass AS relation, pg_get_triggerdef(oid) AS definition FROM pg_trigger
    WHERE tgfoid = 'whisperer.deliver_event_trigger'::regproc;
\pset format unaligned

-- An event type not registered is registered, as the caller may.
SELECT whisperer.attach('package', 'package-created');
SELECT event_type FROM whisperer.event_types;
SELECT * FROM triggers;
-- Again: replaced.
SELECT whisperer.attach('package', 'package-created', 'insert  or Update OR DELETE', columns => '{price,odd column}');
SELECT * FROM triggers;
SELECT whisperer.attach('package', 'package-created', 'INSERT OR UPDATE', E'NEW.price > 100 AND (NEW.name <> \')\' OR true) -- note',
    config_filter => '{"region": "e''u"}');
SELECT * FROM triggers;
SELECT whisperer.detach('package', 'package-created');
-- Made by hand, of whatever kind and name: not attach()'s to replace or remove, whoever calls it.
CREATE TRIGGER by_hand AFTER INSERT ON package REFERENCING NEW TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created');
SELECT whisperer.detach('package', 'package-created');
SELECT whisperer.attach('package', 'package-created');
SELECT whisperer.attach('package', 'package-created', 'DELETE');
SELECT * FROM triggers ORDER BY 2;
SELECT whisperer.detach('package', 'package-created');
SELECT * FROM triggers;
DROP TRIGGER by_hand ON package;
CREATE TRIGGER by_hand AFTER UPDATE ON package FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created');
CREATE ROLE attacher;
GRANT TRIGGER ON package TO attacher;
SELECT whisperer.grant_access('attacher', 'deliver');
SET ROLE attacher;
SELECT whisperer.attach('package', 'package-created');
SELECT whisperer.detach('package', 'package-created');
SELECT whisperer.detach('package', 'package-created');
RESET ROLE;
SELECT * FROM triggers;
DROP TRIGGER by_hand ON package;
CREATE CONSTRAINT TRIGGER "whisperer_package-created" AFTER INSERT ON package INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created');
SELECT whisperer.detach('package', 'package-created');
SELECT whisperer.attach('package', 'package-created');
DROP TRIGGER "whisperer_package-created" ON package;
DROP OWNED BY attacher;
DROP ROLE attacher;

-- Names: quoted where need be, shortened where too long, still one for each event type.
SELECT whisperer.attach('package', 'Odd "name"; DROP TABLE package; --''');
SELECT whisperer.attach('package', 'package-' || repeat('é', 60)), whisperer.attach('package', 'package-' || repeat('é', 61));
SELECT tgname, octet_length(tgname) FROM pg_trigger WHERE tgrelid = 'package'::regclass ORDER BY 1;
SELECT whisperer.detach('package', event_type) FROM whisperer.event_types WHERE event_type <> 'package-created' ORDER BY event_type;
SELECT count(*) FROM triggers;

-- What the triggers raise.
SELECT whisperer.subscribe('package-created', 'https://example.com/hook', config => '{"region": "eu"}');
SELECT whisperer.attach('package', 'package-created', 'INSERT OR UPDATE OR DELETE', columns => '{price}', config_filter => '{"region": "eu"}');
BEGIN;
INSERT INTO package VALUES (1, 'one', 10), (2, 'two', 20);
UPDATE package SET name = 'eins' WHERE id = 1;
UPDATE package SET price = 11 WHERE id = 1;
DELETE FROM package WHERE id = 2;
SELECT event_type, request_payload->'payload' AS payload, relation FROM whisperer.pending ORDER BY payload;
ROLLBACK;
SELECT whisperer.attach('package', 'package-created', 'INSERT OR UPDATE', 'NEW.price > 15', config_filter => '{"region": "us"}');
BEGIN;
INSERT INTO package VALUES (1, 'one', 10), (2, 'two', 20);
SELECT count(*) FROM whisperer.pending;
SELECT whisperer.update_subscription(1, '{"config": {"region": "us"}}');
INSERT INTO package VALUES (3, 'three', 10), (4, 'four', 20);
SELECT request_payload->'payload'->'id' AS id FROM whisperer.pending;
ROLLBACK;
SELECT whisperer.detach('package', 'package-created');

-- Partitioned tables: through the whole, not twice for a partition.
CREATE TABLE sale (id int, region text) PARTITION BY LIST (region);
CREATE TABLE sale_eu PARTITION OF sale FOR VALUES IN ('eu');
SELECT whisperer.attach('sale', 'sale-made');
SELECT * FROM triggers ORDER BY 1;
SELECT whisperer.attach('sale_eu', 'sale-made');
SELECT whisperer.detach('sale_eu', 'sale-made');
SELECT whisperer.attach('sale', 'sale-made', 'DELETE');
SELECT * FROM triggers ORDER BY 1;
SELECT whisperer.detach('sale', 'sale-made');
SELECT * FROM triggers;
SELECT whisperer.attach('sale_eu', 'sale-made');
SELECT whisperer.detach('sale_eu', 'sale-made');

-- Temporary tables too.
CREATE TEMPORARY TABLE passing (id int);
SELECT whisperer.attach('passing', 'package-created');
DROP TABLE passing;

-- Rolled back, nothing of it stays.
BEGIN;
SELECT whisperer.attach('package', 'package-sold');
SELECT whisperer.detach('package', 'package-sold');
SELECT whisperer.attach('package', 'package-sold');
ROLLBACK;
SELECT * FROM triggers;
SELECT count(*) FROM whisperer.event_types WHERE event_type = 'package-sold';
BEGIN READ ONLY;
SELECT whisperer.attach('package', 'package-created');
ROLLBACK;

-- By hand, with a filter that is none: its maker hears it.
CREATE TRIGGER by_hand AFTER INSERT ON package FOR EACH ROW
    EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created', 'nonsense');
CREATE TRIGGER by_hand AFTER INSERT ON package FOR EACH ROW
    EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created', '[]');
CREATE TRIGGER by_hand AFTER INSERT ON package FOR EACH ROW
    EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created', '{"auth": 1}');
-- A type that is not registered yet: a restore makes triggers before it has loaded the types.
CREATE TRIGGER by_hand AFTER INSERT ON package FOR EACH ROW
    EXECUTE FUNCTION whisperer.deliver_event_trigger('still-to-come', '{"region": "eu"}');
INSERT INTO package VALUES (9);
DROP TRIGGER by_hand ON package;

DROP VIEW triggers;
DROP TABLE sale, package;
DROP EXTENSION whisperer;
