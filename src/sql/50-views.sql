-- Deliveries as users see them.
--
-- The inner UNION ALL is of bare tables: no join and no WHERE, or the planner would not see through it. As it is, a condition on
-- uuid, subscription, state or time reaches an index of each branch, and a sort by time with a limit merges the branches instead
-- of sorting them. `state` is a constant in the branch of pending deliveries: a condition on it takes that branch, or the
-- history, out of the plan.
--
-- The rows that a user may see are decided at the tables below (security_invoker), never by a condition in the view, which
-- a cheap function in the user's own condition could see through. Columns that monitors may not read are none of the tables'
-- columns here, on which they would then need privileges, but looked up by the shown_... functions, for the rows shown.

CREATE VIEW whisperer.webhook_events WITH (security_invoker = true) AS
SELECT d.uuid,
       d.subscription_id,
       d.event_type,
       whisperer.shown_url(d.subscription_id) AS target_url,
       d.state,
       d.state = 'delivered' AS delivered,
       d.attempts AS retry_count,
       whisperer.shown_body(d.state, d.uuid) AS request_payload,
       d.response_http_status,
       whisperer.shown_response(d.state, d.uuid) AS response_content,
       d.response_time,
       CASE WHEN d.state = 'failed' AND d.attempts = 0 THEN COALESCE(whisperer.shown_reason(d.uuid), d.error) ELSE d.error END
           AS error,
       d.request_datetimes,
       d.next_attempt_at,
       d.created_date,
       d.modified_date,
       whisperer.relation_of(d.relation_schema, d.relation_name) AS relation
FROM (
    SELECT uuid, subscription_id, event_type, 'pending'::text AS state, attempts,
           response_http_status, response_time, error, request_datetimes,
           COALESCE(due, not_before, modified_date) AS next_attempt_at,
           created_date, modified_date, relation_schema, relation_name
    FROM whisperer.delivery
    UNION ALL
    SELECT uuid, subscription_id, event_type, state, attempts,
           response_http_status, response_time, error, request_datetimes,
           NULL::timestamptz,
           created_date, modified_date, relation_schema, relation_name
    FROM whisperer.history
) d;

COMMENT ON VIEW whisperer.webhook_events IS 'Deliveries, waiting and settled: one row each';

CREATE VIEW whisperer.pending WITH (security_invoker = true) AS
SELECT * FROM whisperer.webhook_events WHERE state = 'pending';
COMMENT ON VIEW whisperer.pending IS 'Deliveries not settled, those that wait for a retry included';

CREATE VIEW whisperer.failed WITH (security_invoker = true) AS
SELECT * FROM whisperer.webhook_events WHERE state = 'failed';
COMMENT ON VIEW whisperer.failed IS 'Deliveries given up; whisperer.retry() and whisperer.retry_failed() revive them';

-- The same words for the same columns of the three views.
DO $$
DECLARE
    view_name text;
    described record;
BEGIN
    FOREACH view_name IN ARRAY ARRAY['webhook_events', 'pending', 'failed'] LOOP
        FOR described IN
            SELECT * FROM (VALUES
                ('uuid', 'The delivery; in the request as webhook-id and as event.uuid'),
                ('subscription_id', 'The subscription that it is for'),
                ('event_type', 'The type of the event'),
                ('target_url', 'Where the subscription sends now; to monitors, of others, only scheme and host'),
                ('state', 'pending (also while waiting for a retry), delivered, failed or cancelled'),
                ('delivered', 'Whether a receiver accepted it'),
                ('retry_count', 'Attempts made'),
                ('request_payload', 'The whole body of the request; NULL if the event failed before it had one, and to monitors, of others'),
                ('response_http_status', 'Status of the last response; NULL if there was none'),
                ('response_content', 'Body of the last response, up to whisperer.max_response_size; NULL to monitors, of others'),
                ('response_time', 'How long the last attempt took'),
                ('error', 'Why the last attempt, or the delivery, failed; what functions said is not shown to monitors, of others'),
                ('request_datetimes', 'When the attempts were made, newest first'),
                ('next_attempt_at', 'From when on the next attempt is due; NULL once settled'),
                ('created_date', 'When the event was raised'),
                ('modified_date', 'Last change; of a settled delivery its settlement'),
                ('relation', 'The table that has the schema and name of the one whose row it was; NULL if there was none, or none has them now')
            ) AS c (column_name, words)
        LOOP
            EXECUTE pg_catalog.format('COMMENT ON COLUMN whisperer.%I.%I IS %L', view_name, described.column_name,
                                      described.words);
        END LOOP;
    END LOOP;
END
$$;
