-- Countdowns as countdown_preview() shows them.
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS whisperer CASCADE;
CREATE EXTENSION whisperer;
RESET client_min_messages;

SELECT * FROM whisperer.countdown_preview('{"choice": "fixed", "kwargs": {"seconds": 5}}', 3);
SELECT * FROM whisperer.countdown_preview('{"choice": "linear", "kwargs": {"base": 10, "limit": 25}}', 4);
SELECT * FROM whisperer.countdown_preview('{"choice": "exponential", "kwargs": {"base": 2}}');
SELECT * FROM whisperer.countdown_preview('{"choice": "exponential", "kwargs": {"base": 2, "factor": 1.5, "limit": 20}}', 5);
SELECT * FROM whisperer.countdown_preview('{"choice": "schedule", "kwargs": {"seconds": [1, 2.5, 60]}}', 5);
-- Thirty days at most, whatever the numbers.
SELECT seconds FROM whisperer.countdown_preview('{"choice": "exponential", "kwargs": {"base": 1e300, "factor": 1e300}}', 1);
SELECT max(seconds), count(*) FROM whisperer.countdown_preview('{"choice": "linear", "kwargs": {"base": 1e6}}', 1000);

-- The default: the schedule of Standard Webhooks, a tenth up or down.
SELECT retry_count, abs(seconds - plain) <= plain * 0.1 AS near
    FROM whisperer.countdown_preview(NULL, 10) JOIN (VALUES (1, 5), (2, 300), (3, 1800), (4, 7200), (5, 18000), (6, 36000),
        (7, 50400), (8, 72000), (9, 86400), (10, 86400)) v (retry_count, plain) USING (retry_count) ORDER BY 1;
SELECT count(DISTINCT seconds) > 1 AS drawn, min(seconds) >= 50 AND max(seconds) <= 150 AS within
    FROM whisperer.countdown_preview('{"choice": "fixed", "kwargs": {"seconds": 100, "jitter": 0.5}}', 1000);

-- random: both ends, whole when both are whole.
SELECT DISTINCT seconds FROM whisperer.countdown_preview('{"choice": "random", "kwargs": {"min_value": 1, "max_value": 4.0}}', 1000) ORDER BY 1;
SELECT min(seconds) >= 1 AND max(seconds) <= 1.5 AS within, count(DISTINCT seconds) > 900 AS drawn
    FROM whisperer.countdown_preview('{"choice": "random", "kwargs": {"min_value": 1, "max_value": 1.5}}', 1000);
SELECT bool_and(abs(cumulative - running) < 1e-3) AS adds_up
    FROM (SELECT cumulative, sum(seconds) OVER (ORDER BY retry_count) AS running FROM whisperer.countdown_preview(NULL, 1000)) s;
DROP EXTENSION whisperer;
