-- Rows of usual types are printed without jsonb in between: the bytes are those of to_jsonb(), whatever the session's settings.
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS whisperer CASCADE;
CREATE EXTENSION whisperer;
ALTER DATABASE :"DBNAME" SET whisperer.enabled = off;
SELECT whisperer.register_event_type('row');
SELECT whisperer.subscribe('row', 'http://127.0.0.1:1/row') > 0;

CREATE TABLE usual (
    gone text,
    id bigserial,
    b boolean, i2 smallint, i4 integer, n numeric, n2 numeric(12, 3), f4 real, f8 double precision,
    t text, v varchar(100), c char(7), nm name, "ch" "char", o oid, u uuid, j json, jb jsonb,
    d date, ts timestamp, tz timestamptz, tm time, ta text[], ia integer[], na numeric[], da date[], ba boolean[],
    "quoted ""key"" \" integer, "é" integer, "B" integer, "a b" integer);
ALTER TABLE usual DROP COLUMN gone;
CREATE TRIGGER row_events AFTER INSERT ON usual FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('row');

-- NULLs; every character; every kind of number; all ends of time.
INSERT INTO usual DEFAULT VALUES;
INSERT INTO usual (t, v, c, nm, ch) SELECT 'a' || chr(i) || 'z', chr(i), chr(i), chr(i), CASE WHEN i < 128 THEN chr(i)::"char" END
    FROM generate_series(1, 1200) AS i;
INSERT INTO usual (b, i2, i4, id, n, n2, f4, f8) SELECT i % 2 = 0, 32767 - i, -2147483648 + i, -9223372036854775808 + i,
    i * 1.10, i / 7.0, i / 3.0, i * 1e-5 FROM generate_series(0, 100) AS i;
INSERT INTO usual (n) SELECT x::numeric FROM unnest('{NaN,Infinity,-Infinity,0,-0,0.000,1e30,1e-30,123456789012345678901234567890.123}'::text[]) AS x;
INSERT INTO usual (f4) SELECT x::real FROM unnest('{NaN,Infinity,-Infinity,0,-0,1e10,1e-10,0.1,1e38,1e-38,16777216,123456.7}'::text[]) AS x;
INSERT INTO usual (f8) SELECT x::float8 FROM unnest('{NaN,Infinity,-Infinity,0,-0,1e15,1e16,1e20,1e-7,1e300,1e-300,0.1,5e-324,123456789.125}'::text[]) AS x;
INSERT INTO usual (f8) SELECT sqrt(i) * 10 ^ (i - 100) FROM generate_series(1, 200) AS i;
INSERT INTO usual (d, ts, tz) SELECT x::date, x::timestamp, x::timestamptz FROM unnest(
    '{infinity,-infinity,2026-02-03 04:05:06.789,0001-01-01 BC,99999-12-31 23:59:59.999999,1999-12-31 23:59:59+14}'::text[]) AS x;
INSERT INTO usual (tm) VALUES ('00:00'), ('24:00'), ('12:34:56.7');
INSERT INTO usual (u, o, ta, ia, na, da, ba) VALUES ('00000000-ffff-0123-4567-89abcdef0000', 4294967295, '{a,"b c",NULL}', '{{1,2},{3,4}}',
    '{1.50,NaN}', '{2026-01-01,infinity}', '{t,f,NULL}'), (NULL, 0, '{}', '{}', '{}', '{}', '{}');
INSERT INTO usual (j, jb) SELECT x::json, x::jsonb FROM unnest(ARRAY['{"b": 1, "a": [1.0, {"x": null}]}', '"\u00e9\n"', '[]', '{}', 'null', '1e3', 'true']) AS x;
INSERT INTO usual ("quoted ""key"" \", "é", "B", "a b") VALUES (1, 2, 3, 4);
INSERT INTO usual (t, v) VALUES (repeat('long and compressed ', 10000), 'x'), ('', '');
ALTER TABLE usual ADD COLUMN later text DEFAULT 'a default of all rows', ADD COLUMN iv interval;
ALTER TABLE usual DROP COLUMN iv; -- and back to usual types
SELECT count(whisperer.deliver_event(usual, 'row')) > 1500 FROM usual;

-- Under settings of every kind, and a type with a column that is not usual.
SET TimeZone = 'Asia/Kathmandu';
SET DateStyle = 'German';
SET bytea_output = 'escape';
INSERT INTO usual (tz, ts, d, tm, da) VALUES ('2026-02-03 04:05:06+01', '2026-02-03 04:05', '2026-02-03', '04:05', '{2026-02-03}');
SET extra_float_digits = 0;
INSERT INTO usual (f8, f4) VALUES (0.1::float8 + 0.2, 1.0 / 3);
RESET ALL;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE unusual (id integer, at timestamptz, how mood, iv interval, kind regclass, inner_row usual);
CREATE TRIGGER row_events AFTER INSERT ON unusual FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('row');
SET TimeZone = 'Asia/Kathmandu';
SET quote_all_identifiers = on;
INSERT INTO unusual SELECT 1, '2026-02-03 04:05:06+01', 'ok', '1 day', 'pg_class', r FROM usual r WHERE r.id = 1;
RESET quote_all_identifiers;
RESET TimeZone;

SET TimeZone = 'UTC';
SET IntervalStyle = 'iso_8601';
-- Not one payload that is no row's, and as many as were raised.
SELECT count(*) FROM usual;
SELECT count(*) FROM whisperer.delivery;
SELECT payload FROM (SELECT coalesce(d.payload, e.payload) AS payload FROM whisperer.delivery d
                     LEFT JOIN whisperer.event e ON e.uuid = d.event_uuid WHERE relation_name = 'usual') p
    WHERE payload NOT IN (SELECT to_jsonb(r)::text FROM usual r)
      AND payload NOT IN (SELECT (to_jsonb(r) - 'later')::text FROM usual r)
    LIMIT 5;
SELECT to_jsonb(r)::text FROM usual r
    WHERE to_jsonb(r)::text NOT IN (SELECT coalesce(d.payload, e.payload) FROM whisperer.delivery d
                                    LEFT JOIN whisperer.event e ON e.uuid = d.event_uuid) LIMIT 5;
SELECT d.payload = to_jsonb(r)::text FROM whisperer.delivery d, unusual r WHERE relation_name = 'unusual';
DROP TABLE unusual, usual;
DROP TYPE mood;
ALTER DATABASE :"DBNAME" RESET whisperer.enabled;
DROP EXTENSION whisperer;
