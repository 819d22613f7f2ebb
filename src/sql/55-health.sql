-- How each subscription fares. After the journal, whose list of what is in flight it reads.

CREATE VIEW whisperer.subscription_health WITH (security_invoker = true) AS
SELECT s.id AS subscription_id,
       s.event_type,
       whisperer.shown_url(s.id) AS target_url,
       s.is_active AND NOT (s.owner_dropped OR whisperer.owner_is_gone(s.owner_oid, s.owner_name, s.owner_system))
           AS is_active,
       waiting.pending,
       waiting.oldest_pending,
       COALESCE(flying.in_flight, 0) AS in_flight,
       recent.delivered_last_hour,
       broken.failed_last_hour,
       COALESCE(st.consecutive_failures, 0) AS consecutive_failures,
       st.paused_until,
       st.last_status,
       st.last_error
FROM whisperer.subscription s
LEFT JOIN whisperer.subscription_state st ON st.subscription_id = s.id
LEFT JOIN (
    SELECT f.subscription_id, pg_catalog.count(*)::integer AS in_flight
    FROM whisperer.in_flight_list() f
    GROUP BY f.subscription_id
) flying ON flying.subscription_id = s.id
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(*) AS pending, pg_catalog.min(d.created_date) AS oldest_pending
    FROM whisperer.delivery d
    WHERE d.subscription_id = s.id
) waiting
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(*) AS delivered_last_hour
    FROM whisperer.history h
    WHERE h.subscription_id = s.id AND h.state = 'delivered'
      AND h.modified_date >= pg_catalog.statement_timestamp() - interval '1 hour'
) recent
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(*) AS failed_last_hour
    FROM whisperer.history h
    WHERE h.subscription_id = s.id AND h.state = 'failed'
      AND h.modified_date >= pg_catalog.statement_timestamp() - interval '1 hour'
) broken
WHERE s.ended_date IS NULL;

COMMENT ON VIEW whisperer.subscription_health IS 'How each subscription that has not ended fares: what waits, what arrived, what is wrong';
COMMENT ON COLUMN whisperer.subscription_health.subscription_id IS 'The subscription';
COMMENT ON COLUMN whisperer.subscription_health.event_type IS 'The event type that it asks for';
COMMENT ON COLUMN whisperer.subscription_health.target_url IS 'Where it sends';
COMMENT ON COLUMN whisperer.subscription_health.is_active IS 'False: paused or held; what is pending is kept and not sent';
COMMENT ON COLUMN whisperer.subscription_health.pending IS 'Deliveries not settled, those in flight included';
COMMENT ON COLUMN whisperer.subscription_health.oldest_pending IS 'When the oldest of them was raised';
COMMENT ON COLUMN whisperer.subscription_health.in_flight IS 'Requests under way, or done and not yet recorded';
COMMENT ON COLUMN whisperer.subscription_health.delivered_last_hour IS 'Deliveries that arrived within the last hour';
COMMENT ON COLUMN whisperer.subscription_health.failed_last_hour IS 'Deliveries given up within the last hour';
COMMENT ON COLUMN whisperer.subscription_health.consecutive_failures IS 'Attempts that failed since one last succeeded';
COMMENT ON COLUMN whisperer.subscription_health.paused_until IS 'The receiver asked for no requests before this time (Retry-After)';
COMMENT ON COLUMN whisperer.subscription_health.last_status IS 'HTTP status of the last attempt; NULL if there was no response';
COMMENT ON COLUMN whisperer.subscription_health.last_error IS 'Why the last attempt failed; NULL if it did not';
