-- A restore loads the original's row into whisperer.home by COPY, which calls no function of ours: the workers hear of it
-- through this trigger, and hold the database.

CREATE FUNCTION whisperer.home_changed() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'whisperer_home_changed';
COMMENT ON FUNCTION whisperer.home_changed() IS
    'Internal: tells the workers that this database''s home is to be looked at again';

CREATE TRIGGER home_changed AFTER INSERT OR UPDATE OR DELETE ON whisperer.home
    FOR EACH STATEMENT EXECUTE FUNCTION whisperer.home_changed();
