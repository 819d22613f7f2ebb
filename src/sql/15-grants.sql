-- Who may do what, and who may see what.

-- The levels of access that roles were granted. PostgreSQL's own privileges in this schema are derived from it.
CREATE TABLE whisperer.access_grant (
    role_oid oid NOT NULL,
    role_name text NOT NULL,
    role_system bigint NOT NULL,
    level text NOT NULL CHECK (level IN ('deliver', 'subscribe', 'monitor', 'admin')),
    event_type text, -- NULL: all
    granted_date timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE UNIQUE INDEX access_grant_unique ON whisperer.access_grant
    (role_system, role_oid, level, (COALESCE(event_type, ''::text)));
ALTER TABLE whisperer.access_grant REPLICA IDENTITY FULL; -- the index has an expression
SELECT pg_catalog.pg_extension_config_dump('whisperer.access_grant', '');

CREATE FUNCTION whisperer.grant_access(role regrole, level text, event_type text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_grant_access';
COMMENT ON FUNCTION whisperer.grant_access(regrole, text, text) IS
    'Grants a role a level of access: deliver, subscribe (both also for one event type), monitor or admin. A grant to subscribe to a type is a grant to read what that type carries.';

CREATE FUNCTION whisperer.revoke_access(role regrole, level text, event_type text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_revoke_access';
COMMENT ON FUNCTION whisperer.revoke_access(regrole, text, text) IS
    'Takes back what grant_access() granted in the same words. Subscriptions whose owner may then no longer subscribe to their event type are paused.';

CREATE FUNCTION whisperer.reassign(old_owner text, new_owner regrole) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_reassign';
COMMENT ON FUNCTION whisperer.reassign(text, regrole) IS
    'Gives the subscriptions and event types of a role, also of one that was dropped, to another.';

CREATE FUNCTION whisperer.renew_privileges() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_renew_privileges';
COMMENT ON FUNCTION whisperer.renew_privileges() IS
    'Internal: gives all roles the privileges that their grants need. Every update script ends with it, since what it drops and makes again has lost them.';

-- ---- Rows: policies of the tables below the views, which look with the rights of their reader

CREATE FUNCTION whisperer.visible_subscriptions() RETURNS bigint[]
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'whisperer_visible_subscriptions';
COMMENT ON FUNCTION whisperer.visible_subscriptions() IS
    'Internal: ids of the subscriptions of which the caller may see anything';

CREATE FUNCTION whisperer.may_see_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'whisperer_may_see_support';
COMMENT ON FUNCTION whisperer.may_see_support(internal) IS 'Internal: tells the planner of may_see()';

CREATE FUNCTION whisperer.may_see(subscription_id bigint) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE COST 2 SUPPORT whisperer.may_see_support AS 'MODULE_PATHNAME', 'whisperer_may_see';
COMMENT ON FUNCTION whisperer.may_see(bigint) IS
    'Internal: whether the caller may see anything of the subscription';

CREATE FUNCTION whisperer.may_see_event_type(event_type text, owner_oid oid, owner_name text, owner_system bigint)
        RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'whisperer_may_see_event_type';
COMMENT ON FUNCTION whisperer.may_see_event_type(text, oid, text, bigint) IS
    'Internal: whether the caller owns the event type or has a grant for it';

ALTER TABLE whisperer.event_type_entry ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON whisperer.event_type_entry FOR SELECT
    USING (whisperer.may_see_event_type(event_type, owner_oid, owner_name, owner_system));
ALTER TABLE whisperer.subscription ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON whisperer.subscription FOR SELECT USING (whisperer.may_see(id));
ALTER TABLE whisperer.subscription_state ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON whisperer.subscription_state FOR SELECT USING (whisperer.may_see(subscription_id));
ALTER TABLE whisperer.delivery ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON whisperer.delivery FOR SELECT USING (whisperer.may_see(subscription_id));
ALTER TABLE whisperer.history ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON whisperer.history FOR SELECT USING (whisperer.may_see(subscription_id));
ALTER TABLE whisperer.function_failure ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON whisperer.function_failure FOR SELECT USING (whisperer.may_see(subscription_id));

-- A list for all who may read it at all.
CREATE POLICY visible ON whisperer.custom_countdown FOR SELECT USING (true);

-- ---- Columns on which nobody has privileges, as far as the caller may see them
-- Costly, as they are: the planner then computes them after a sort and a limit, for the rows shown only.

CREATE FUNCTION whisperer.shown_url(subscription_id bigint) RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE COST 20 AS 'MODULE_PATHNAME', 'whisperer_shown_url';
COMMENT ON FUNCTION whisperer.shown_url(bigint) IS
    'Internal: where a subscription sends; to monitors, of others, only scheme and host';

CREATE FUNCTION whisperer.shown_headers(subscription_id bigint) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE COST 20 AS 'MODULE_PATHNAME', 'whisperer_shown_headers';
COMMENT ON FUNCTION whisperer.shown_headers(bigint) IS
    'Internal: the headers of a subscription; to monitors, of others, without values';

CREATE FUNCTION whisperer.shown_body(state text, delivery uuid) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'whisperer_shown_body';
COMMENT ON FUNCTION whisperer.shown_body(text, uuid) IS
    'Internal: the whole body of a delivery''s requests; NULL to monitors, of others';

CREATE FUNCTION whisperer.shown_response(state text, delivery uuid) RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE COST 50 AS 'MODULE_PATHNAME', 'whisperer_shown_response';
COMMENT ON FUNCTION whisperer.shown_response(text, uuid) IS
    'Internal: what the receiver answered last; NULL to monitors, of others';

CREATE FUNCTION whisperer.shown_reason(delivery uuid) RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE COST 50 AS 'MODULE_PATHNAME', 'whisperer_shown_reason';
COMMENT ON FUNCTION whisperer.shown_reason(uuid) IS
    'Internal: why a delivery has no body; NULL to monitors, of others';

CREATE FUNCTION whisperer.shown_failure(subscription_id bigint, delivery uuid, occurred timestamptz) RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE COST 50 AS 'MODULE_PATHNAME', 'whisperer_shown_failure';
COMMENT ON FUNCTION whisperer.shown_failure(bigint, uuid, timestamptz) IS
    'Internal: what went wrong in a call of a callback or countdown; NULL to monitors, of others';
