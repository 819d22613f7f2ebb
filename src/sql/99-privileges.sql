-- The last piece: nothing of the schema is for everybody. New functions are executable by PUBLIC unless this is said.

REVOKE ALL ON ALL TABLES IN SCHEMA whisperer FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA whisperer FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA whisperer FROM PUBLIC;
REVOKE ALL ON SCHEMA whisperer FROM PUBLIC;

-- Nor of those whom ALTER DEFAULT PRIVILEGES gives something of whatever its role creates: TRIGGER on one of these tables would
-- run their code as a superuser, SELECT would show secrets. And row-level security for every table, with or without a
-- policy, keeps pg_read_all_data from secrets and bodies, and pg_write_all_data from naming functions that run as others.
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT o.kind, o.name, a.grantee::regrole AS grantee
        FROM (SELECT 'SCHEMA' AS kind, oid::regnamespace::text AS name, nspowner AS owner, nspacl AS acl
              FROM pg_catalog.pg_namespace WHERE nspname = 'whisperer'
              UNION ALL
              SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass::text, relowner, relacl
              FROM pg_catalog.pg_class WHERE relnamespace = 'whisperer'::regnamespace AND relkind IN ('r', 'v', 'S')
              UNION ALL
              SELECT 'ROUTINE', oid::regprocedure::text, proowner, proacl
              FROM pg_catalog.pg_proc WHERE pronamespace = 'whisperer'::regnamespace) o,
            LATERAL (SELECT DISTINCT grantee FROM pg_catalog.aclexplode(o.acl)) a
        WHERE a.grantee NOT IN (0, o.owner)
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %s CASCADE', found.kind, found.name, found.grantee);
    END LOOP;
    FOR found IN
        SELECT oid::regclass AS name FROM pg_catalog.pg_class WHERE relnamespace = 'whisperer'::regnamespace AND relkind = 'r'
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', found.name);
    END LOOP;
END
$$;
