// whisperer.* settings, in the order of the contract's section 9. Values are read in place; strings are
// parsed by their check hooks into the plain structs below.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

struct RequestTimeout {
    double connect_seconds;
    double response_seconds;
};

enum TriggerErrors { TRIGGER_ERRORS_ERROR, TRIGGER_ERRORS_RECORD };

extern bool setting_enabled;
extern int setting_max_attempts;
extern int setting_max_payload_size; // bytes
extern int setting_trigger_errors;   // TriggerErrors
extern int setting_workers;
extern int setting_max_in_flight;
extern int setting_max_in_flight_per_subscription;
extern int setting_max_response_size;    // bytes
extern int setting_callback_timeout;     // milliseconds
extern int setting_safety_scan_interval; // seconds
extern int setting_max_databases;        // sizes shared memory
extern char *setting_ca_file;
extern char *setting_proxy;

// As parsed.
const RequestTimeout &setting_request_timeout();
const core::AddressPolicy &setting_allowed_networks();
// Retention in microseconds; 0: keep all.
int64 setting_retention();

// Parses "10", "5,10" or "(5, 10)"; false with a message (static or palloc'ed) when it is nonsense. Also for
// config.request_timeout.
bool parse_request_timeout(const char *text, RequestTimeout *result, const char **message);

void settings_init();

} // namespace whisperer::pg
