// What every process that sends requests gives to the core: the delivery workers, and sessions that deliver
// synchronously.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// From the settings as they are now. The policy and the texts stay valid until the settings change.
core::EngineSettings sender_engine_settings();
core::OutboxLimits sender_limits();

// whisperer.max_in_flight, or fewer where this process may not open that many sockets: a request without a
// file descriptor is an attempt that failed, and the receiver is not to blame.
int sender_max_in_flight();

// Lets this process open as many files as whisperer.max_in_flight takes, as far as the operating system's
// hard limit goes; says in the log when that is not enough. For the delivery workers: a user's session keeps
// the limit that its server was given.
void sender_make_room();

// "whisperer/<version> (PostgreSQL <major>)", static.
core::Slice sender_user_agent();

// Warns, once, when whisperer.ca_file is no file of certificates.
void sender_check_ca_file();

} // namespace whisperer::pg
