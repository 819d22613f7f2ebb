-- grant_access, revoke_access, reassign: bad arguments, and what they answer.
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS whisperer CASCADE;
CREATE EXTENSION whisperer;
RESET client_min_messages;
SELECT whisperer.register_event_type('package-created');
CREATE ROLE regress_whisperer_reader;
CREATE ROLE regress_whisperer_boss;

SELECT whisperer.grant_access(NULL, 'deliver');
SELECT whisperer.grant_access('regress_whisperer_reader', NULL);
SELECT whisperer.grant_access('regress_whisperer_reader', 'write');
SELECT whisperer.grant_access('regress_whisperer_reader', 'Deliver');
SELECT whisperer.grant_access('regress_whisperer_reader', '');
SELECT whisperer.grant_access('regress_whisperer_reader', 'deliver', 'unknown');
SELECT whisperer.grant_access('regress_whisperer_reader', 'deliver', '');
SELECT whisperer.grant_access('regress_whisperer_reader', 'monitor', 'package-created');
SELECT whisperer.grant_access('regress_whisperer_reader', 'admin', 'package-created');
SELECT whisperer.grant_access('no such role', 'deliver');
SELECT whisperer.grant_access('-', 'deliver');
SELECT whisperer.grant_access(1::regrole, 'deliver');

SELECT whisperer.revoke_access(NULL, 'deliver');
SELECT whisperer.revoke_access('regress_whisperer_reader', NULL);
SELECT whisperer.revoke_access('regress_whisperer_reader', 'write');
SELECT whisperer.revoke_access('regress_whisperer_reader', 'deliver', 'unknown');
SELECT whisperer.revoke_access('regress_whisperer_reader', 'admin', 'package-created');
SELECT whisperer.revoke_access('regress_whisperer_reader', 'deliver'); -- not granted: nothing

SELECT whisperer.reassign(NULL, 'regress_whisperer_reader');
SELECT whisperer.reassign('regress_whisperer_reader', NULL);
SELECT whisperer.reassign('nobody of that name', 'regress_whisperer_reader');
SELECT whisperer.reassign('regress_whisperer_reader', '-');
SELECT whisperer.reassign('regress_whisperer_reader', 'no such role');
SELECT whisperer.reassign('regress_whisperer_reader', 'regress_whisperer_boss'); -- owns nothing

-- Grants, as they are kept.
SELECT whisperer.grant_access('regress_whisperer_reader', 'subscribe', 'package-created');
SELECT whisperer.grant_access('regress_whisperer_reader', 'subscribe', 'package-created');
SELECT whisperer.grant_access('regress_whisperer_reader', 'deliver');
SELECT whisperer.grant_access('regress_whisperer_boss', 'admin');
SELECT role_name, level, event_type FROM whisperer.access_grant ORDER BY role_name, level;

-- Only admins.
SET ROLE regress_whisperer_reader;
SELECT whisperer.grant_access('regress_whisperer_reader', 'admin');
SELECT whisperer.subscribe('package-created', 'https://example.com/hook') AS id \gset
RESET ROLE;
SET ROLE regress_whisperer_boss;
SELECT whisperer.grant_access('regress_whisperer_boss', 'subscribe');
SELECT whisperer.subscribe('package-created', 'https://example.com/hook');
-- Both have the same.
SELECT whisperer.reassign('regress_whisperer_reader', 'regress_whisperer_boss');
SELECT id, owner FROM whisperer.subscriptions ORDER BY id;
SELECT whisperer.unsubscribe(:id);
SELECT whisperer.reassign('regress_whisperer_reader', 'regress_whisperer_boss');
SELECT id, owner FROM whisperer.subscriptions ORDER BY id;
SELECT whisperer.revoke_access('regress_whisperer_reader', 'subscribe', 'package-created');
SELECT whisperer.revoke_access('regress_whisperer_reader', 'deliver');
-- An admin can lose it, and then nothing.
SELECT whisperer.revoke_access('regress_whisperer_boss', 'subscribe');
SELECT whisperer.revoke_access('regress_whisperer_boss', 'admin');
SELECT whisperer.grant_access('regress_whisperer_boss', 'admin');
RESET ROLE;
SELECT id, is_active, inactive_reason FROM whisperer.subscriptions ORDER BY id;
SELECT * FROM whisperer.access_grant;

DROP ROLE regress_whisperer_reader;
DROP ROLE regress_whisperer_boss;
DROP EXTENSION whisperer;
