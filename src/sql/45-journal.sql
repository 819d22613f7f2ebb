-- Requests under way, from the workers' journals.

CREATE FUNCTION whisperer.in_flight_list(OUT uuid uuid, OUT subscription_id bigint) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'whisperer_in_flight_list';
COMMENT ON FUNCTION whisperer.in_flight_list() IS
    'Internal: deliveries whose request is under way or whose result is not recorded yet, as the delivery workers of this database note them';
