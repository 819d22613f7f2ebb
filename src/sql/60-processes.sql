-- Processes and totals.

CREATE FUNCTION whisperer.worker_list(
    OUT pid integer, OUT database text, OUT kind text, OUT state text,
    OUT started timestamptz, OUT in_flight integer, OUT last_activity timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'whisperer_worker_list';
COMMENT ON FUNCTION whisperer.worker_list() IS 'Internal: what the view whisperer.workers shows';

CREATE VIEW whisperer.workers WITH (security_invoker = true) AS
SELECT pid, database, kind, state, started, in_flight, last_activity FROM whisperer.worker_list();
COMMENT ON VIEW whisperer.workers IS 'The processes of whisperer in the whole server';
COMMENT ON COLUMN whisperer.workers.pid IS 'Process id; null while the process is being started';
COMMENT ON COLUMN whisperer.workers.database IS 'Database it works in; null for the launcher';
COMMENT ON COLUMN whisperer.workers.kind IS 'launcher, delivery, callback and countdown (they call users'' functions), maintenance (retention) or probe (looks whether a database has the extension)';
COMMENT ON COLUMN whisperer.workers.state IS 'What it is doing, or why it does nothing';
COMMENT ON COLUMN whisperer.workers.started IS 'When it started';
COMMENT ON COLUMN whisperer.workers.in_flight IS 'Requests under way';
COMMENT ON COLUMN whisperer.workers.last_activity IS 'When it last told its state';

CREATE FUNCTION whisperer.statistics_row(
    OUT events bigint, OUT deliveries bigint, OUT attempts bigint, OUT delivered bigint, OUT failed bigint,
    OUT cancelled bigint, OUT callbacks bigint, OUT callback_errors bigint, OUT stats_reset timestamptz)
RETURNS record
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'whisperer_statistics_row';
COMMENT ON FUNCTION whisperer.statistics_row() IS 'Internal: what the view whisperer.statistics shows';

CREATE VIEW whisperer.statistics WITH (security_invoker = true) AS
SELECT events, deliveries, attempts, delivered, failed, cancelled, callbacks, callback_errors, stats_reset
FROM whisperer.statistics_row();
COMMENT ON VIEW whisperer.statistics IS 'Totals of this database since their last reset';
COMMENT ON COLUMN whisperer.statistics.events IS 'Events raised by transactions that committed';
COMMENT ON COLUMN whisperer.statistics.deliveries IS 'Deliveries of those events, one for each subscription';
COMMENT ON COLUMN whisperer.statistics.attempts IS 'HTTP requests made, whatever came of them';
COMMENT ON COLUMN whisperer.statistics.delivered IS 'Deliveries settled by a 2xx response';
COMMENT ON COLUMN whisperer.statistics.failed IS 'Deliveries given up';
COMMENT ON COLUMN whisperer.statistics.cancelled IS 'Deliveries cancelled';
COMMENT ON COLUMN whisperer.statistics.callbacks IS 'Calls of callbacks';
COMMENT ON COLUMN whisperer.statistics.callback_errors IS 'Calls of callbacks that failed or took too long';
COMMENT ON COLUMN whisperer.statistics.stats_reset IS 'When the totals were reset last, or began';

CREATE FUNCTION whisperer.reset_statistics() RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'whisperer_reset_statistics';
COMMENT ON FUNCTION whisperer.reset_statistics() IS 'Sets the totals of this database to zero, at once';
