-- What an attacker looks for in the catalogue: code that runs with other rights than its caller's, code that resolves names by
-- somebody else's search_path, and anything that somebody may touch who was granted nothing. An exception is a row in
-- one of the lists below, with its reason.
BEGIN;
SELECT no_plan();

CREATE TEMP VIEW members AS
    SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'whisperer';
CREATE TEMP VIEW functions AS
    SELECT p.* FROM pg_proc p WHERE p.oid IN (SELECT objid FROM members WHERE classid = 'pg_proc'::regclass);
CREATE TEMP VIEW relations AS
    SELECT c.* FROM pg_class c WHERE c.relnamespace = 'whisperer'::regnamespace AND c.relkind NOT IN ('i', 'I', 'c', 't');

-- ---- What there is
SELECT is((SELECT string_agg(DISTINCT classid::regclass::text, ' ' ORDER BY classid::regclass::text) FROM members
        -- Since PostgreSQL 17 types of rows are members too; the test of types looks at them.
        WHERE classid <> 'pg_type'::regclass OR objid NOT IN (SELECT oid FROM pg_type WHERE typnamespace = 'whisperer'::regnamespace)),
    'pg_class pg_namespace pg_proc', 'no operator, cast, operator class, language, event trigger or access method is the extension''s');
SELECT is_empty($$SELECT oid::regprocedure FROM functions WHERE pronamespace <> 'whisperer'::regnamespace
    UNION ALL SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'whisperer'::regnamespace AND oid NOT IN (SELECT oid FROM functions)$$,
    'its functions are those of its schema');
SELECT is_empty($$SELECT relname FROM relations WHERE oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_class'::regclass)$$,
    'and so are tables, views and sequences');
SELECT is_empty($$SELECT oid::regtype FROM pg_type WHERE typnamespace = 'whisperer'::regnamespace AND typtype NOT IN ('c', 'b')
    UNION ALL SELECT oid::regtype FROM pg_type WHERE typnamespace = 'whisperer'::regnamespace AND typtype = 'b' AND typelem = 0$$,
    'no types but those of rows and their arrays');

-- ---- Functions
SELECT cmp_ok((SELECT count(*) FROM functions), '>', 30::bigint, 'there are functions to look at');
SELECT is_empty($$SELECT oid::regprocedure FROM functions WHERE prosecdef$$, 'none is SECURITY DEFINER');
SELECT is_empty($$SELECT oid::regprocedure FROM functions
    WHERE prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') OR probin <> '$libdir/whisperer' OR prosqlbody IS NOT NULL$$,
    'all are C: no text to be parsed by the caller''s search_path');
SELECT is_empty($$SELECT oid::regprocedure FROM functions WHERE prosrc !~ '^whisperer_[a-z_]+$'$$, 'of our library''s own functions');
SELECT is_empty($$SELECT oid::regprocedure FROM functions WHERE proleakproof$$, 'none passes for leakproof, so none is evaluated before a policy');
SELECT is_empty($$SELECT oid::regprocedure FROM functions WHERE proconfig IS NOT NULL$$, 'none carries settings');
SELECT is_empty($$SELECT oid::regprocedure FROM functions WHERE prokind <> 'f'$$, 'no procedure, aggregate or window function');
SELECT is_empty($$SELECT oid::regprocedure, prosupport FROM functions
    WHERE prosupport <> 0 AND prosupport NOT IN (SELECT oid FROM functions)$$, 'no support function but our own');
-- Those whose defaults are expressions: constants, nothing that could be resolved otherwise later.
SELECT is_empty($$SELECT oid::regprocedure, d FROM functions, regexp_split_to_table(pg_get_expr(proargdefaults, 0), ', ') d
    WHERE d !~ '^(NULL|''[^'']*''|true|false|\d+)(::[a-z ]+(\[\])?)?$'$$, 'defaults are constants');

-- ---- Privileges: of nobody but the owner, before grant_access()
SELECT is_empty($$
    SELECT what, a.grantee::regrole, a.privilege_type
    FROM (SELECT oid::regprocedure::text AS what, proowner AS owner, coalesce(proacl, acldefault('f', proowner)) AS acl FROM functions
        UNION ALL SELECT oid::regclass::text, relowner, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) FROM relations
        UNION ALL SELECT attrelid::regclass::text || '.' || attname, 0, attacl FROM pg_attribute WHERE attrelid IN (SELECT oid FROM relations)
        UNION ALL SELECT nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname = 'whisperer') o,
        aclexplode(acl) a
    WHERE a.grantee <> owner$$, 'nobody was granted anything, PUBLIC included');
SELECT is_empty($$SELECT defaclrole::regrole, defaclacl FROM pg_default_acl WHERE defaclnamespace = 'whisperer'::regnamespace$$, 'no default privileges');
SELECT is_empty($$
    SELECT what, owner::regrole FROM (SELECT oid::regprocedure::text AS what, proowner AS owner FROM functions
        UNION ALL SELECT oid::regclass::text, relowner FROM relations
        UNION ALL SELECT nspname, nspowner FROM pg_namespace WHERE nspname = 'whisperer') o
    WHERE NOT (SELECT rolsuper FROM pg_roles WHERE oid = owner)$$, 'all belongs to a superuser');

-- ---- Rows
SELECT is_empty($$SELECT relname FROM relations WHERE relkind = 'r' AND NOT relrowsecurity$$,
    'row-level security on every table: else pg_read_all_data read secrets, and pg_write_all_data named functions that others run');
SELECT is((SELECT string_agg(polrelid::regclass || ' ' || polname || ' ' || polcmd::text || polpermissive || ' '
        || pg_get_expr(polqual, polrelid) || coalesce(pg_get_expr(polwithcheck, polrelid), ''), E'\n' ORDER BY polrelid::regclass::text)
    FROM pg_policy WHERE polrelid IN (SELECT oid FROM relations)),
'whisperer.custom_countdown visible rtrue true
whisperer.delivery visible rtrue whisperer.may_see(subscription_id)
whisperer.event_type_entry visible rtrue whisperer.may_see_event_type(event_type, owner_oid, owner_name, owner_system)
whisperer.function_failure visible rtrue whisperer.may_see(subscription_id)
whisperer.history visible rtrue whisperer.may_see(subscription_id)
whisperer.subscription visible rtrue whisperer.may_see(id)
whisperer.subscription_state visible rtrue whisperer.may_see(subscription_id)', 'the policies: to read, never to write');
SELECT is_empty($$SELECT relname FROM relations WHERE relkind = 'v' AND NOT coalesce(reloptions, '{}') @> '{security_invoker=true}'$$,
    'views look with the rights of their reader');
SELECT is_empty($$SELECT relname, relkind FROM relations WHERE relkind NOT IN ('r', 'v', 'S') OR relpersistence <> 'p'$$, 'tables, views and sequences, all logged');

-- ---- Code that runs by itself
SELECT set_eq($$SELECT tgrelid::regclass::text, tgfoid::regprocedure::text FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM relations)$$,
    $$VALUES ('whisperer.home', 'whisperer.home_changed()'), -- a restore is noticed
             ('whisperer.subscription', 'whisperer.recipients_changed()'), -- sessions look anew for whom an event is
             ('whisperer.event_type_entry', 'whisperer.recipients_changed()'),
             ('whisperer.subscription', 'whisperer.renumber_row()'), -- a restore's rows are found by the workers
             ('whisperer.delivery', 'whisperer.renumber_row()'),
             ('whisperer.subscription_secret', 'whisperer.secrets_loaded()')$$, 'triggers: our own, for these reasons');
SELECT is_empty($$SELECT ev_class::regclass, rulename FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM relations) AND rulename <> '_RETURN'$$, 'no rules');
-- What defaults, checks, indexes and views call: our own, or PostgreSQL's.
SELECT is_empty($$
    SELECT DISTINCT d.classid::regclass, d.objid, d.refclassid::regclass, d.refobjid
    FROM pg_depend d
    WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_class'::regclass, 'pg_collation'::regclass)
      AND d.refobjid >= 16384 AND d.deptype <> 'e'
      AND ((d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM relations))
        OR (d.classid = 'pg_attrdef'::regclass AND d.objid IN (SELECT oid FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM relations)))
        OR (d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT oid FROM pg_constraint WHERE conrelid IN (SELECT oid FROM relations)))
        OR (d.classid = 'pg_rewrite'::regclass AND d.objid IN (SELECT oid FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM relations)))
        OR (d.classid = 'pg_proc'::regclass AND d.objid IN (SELECT oid FROM functions)))
      AND d.refobjid NOT IN (SELECT objid FROM members)
      AND d.refobjid NOT IN (SELECT reltype FROM relations)$$, 'nothing depends on what is not the extension''s or PostgreSQL''s own');

SELECT * FROM finish();
ROLLBACK;
