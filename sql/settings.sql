-- The settings as pg_settings shows them, and nonsense refused with a message.
SELECT name, setting, unit, context, vartype, min_val, max_val, enumvals
FROM pg_settings WHERE name LIKE 'whisperer.%' AND name <> 'whisperer.allowed_networks' ORDER BY name COLLATE "C";
SELECT name, short_desc, extra_desc FROM pg_settings WHERE name LIKE 'whisperer.%' ORDER BY name COLLATE "C";

-- request_timeout: one number or two.
SET whisperer.request_timeout = 2.5;
SET whisperer.request_timeout = '5,10';
SET whisperer.request_timeout = '(5, 10)';
SET whisperer.request_timeout = ' 0.001 , 3600 ';
SET whisperer.request_timeout = '';
SET whisperer.request_timeout = 'soon';
SET whisperer.request_timeout = '10s';
SET whisperer.request_timeout = '(10)';
SET whisperer.request_timeout = '(5, 10';
SET whisperer.request_timeout = '5, 10)';
SET whisperer.request_timeout = '5, 10, 15';
SET whisperer.request_timeout = '5 10';
SET whisperer.request_timeout = '-1';
SET whisperer.request_timeout = '1e3';
SET whisperer.request_timeout = 'inf';
SET whisperer.request_timeout = '1.2.3';
SET whisperer.request_timeout = 0;
SET whisperer.request_timeout = '10, 3600.1';
RESET whisperer.request_timeout;

-- Numbers with units.
SET whisperer.max_attempts = 0;
SET whisperer.max_attempts = 1001;
SET whisperer.max_payload_size = '1 B';
SET whisperer.max_payload_size = '1 MB';
SHOW whisperer.max_payload_size;
SET whisperer.trigger_errors = 'ignore';
ALTER SYSTEM SET whisperer.workers = 0;
ALTER SYSTEM SET whisperer.workers = 17;
ALTER SYSTEM SET whisperer.max_in_flight = 4097;
ALTER SYSTEM SET whisperer.max_in_flight_per_subscription = 0;
ALTER SYSTEM SET whisperer.max_response_size = '1 GB';
ALTER SYSTEM SET whisperer.callback_timeout = '1 ms';
ALTER SYSTEM SET whisperer.safety_scan_interval = 0;
ALTER SYSTEM SET whisperer.max_databases = 0;

-- Texts with a form.
ALTER SYSTEM SET whisperer.retention = 'a while';
ALTER SYSTEM SET whisperer.retention = '';
ALTER SYSTEM SET whisperer.retention = '-1 day';
ALTER SYSTEM SET whisperer.retention = '1 day -25 hours';
ALTER SYSTEM SET whisperer.retention = '6000 years';
ALTER SYSTEM SET whisperer.retention = 'infinity';
ALTER SYSTEM SET whisperer.retention = 12;
ALTER SYSTEM SET whisperer.retention = '-1.5 ';
ALTER SYSTEM SET whisperer.retention = '0.0';
ALTER SYSTEM SET whisperer.retention = '1:00';
ALTER SYSTEM SET whisperer.retention = '1 year 2 mons 00:00:01';
ALTER SYSTEM SET whisperer.retention = 'P12W';
ALTER SYSTEM SET whisperer.retention = 0;
ALTER SYSTEM RESET whisperer.retention;
ALTER SYSTEM SET whisperer.allowed_networks = '10.0.0.0/8, nonsense';
ALTER SYSTEM SET whisperer.allowed_networks = '10.0.0.1/8';
ALTER SYSTEM SET whisperer.allowed_networks = '10.0.0.0/33';
ALTER SYSTEM SET whisperer.ca_file = 'ca.pem';
ALTER SYSTEM SET whisperer.proxy = 'proxy.example.com:3128';
ALTER SYSTEM SET whisperer.proxy = 'https://proxy.example.com:3128';
ALTER SYSTEM SET whisperer.proxy = 'http://proxy.example.com';
ALTER SYSTEM SET whisperer.proxy = 'http://proxy.example.com:3128/path';
ALTER SYSTEM SET whisperer.proxy = 'http://user:secret@proxy.example.com:3128';
ALTER SYSTEM SET whisperer.proxy = 'socks5://proxy.example.com:1080';
ALTER SYSTEM SET whisperer.proxy = 'http://proxy.example.com:0';

-- Who may, and when.
SET whisperer.workers = 2;
SET whisperer.retention = '1 day';
SET whisperer.max_databases = 10;
SET whisperer.nonsense = 1;
CREATE ROLE regress_settings;
SET ROLE regress_settings;
SET whisperer.enabled = off;
SET whisperer.request_timeout = 1;
SET whisperer.max_attempts = 1;
SET whisperer.max_payload_size = '2 MB';
SET whisperer.trigger_errors = record;
RESET ROLE;
DROP ROLE regress_settings;
