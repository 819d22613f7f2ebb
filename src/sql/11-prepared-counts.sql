-- What transactions prepared for a two-phase commit counted: a row of each, which counts once it is committed, whoever commits it
-- and after whatever. The worker adds them to the totals.
CREATE TABLE whisperer.statistics_prepared (
    events bigint NOT NULL,
    deliveries bigint NOT NULL,
    attempts bigint NOT NULL,
    delivered bigint NOT NULL,
    failed bigint NOT NULL,
    cancelled bigint NOT NULL,
    callbacks bigint NOT NULL,
    callback_errors bigint NOT NULL
);
ALTER TABLE whisperer.statistics_prepared REPLICA IDENTITY FULL;
