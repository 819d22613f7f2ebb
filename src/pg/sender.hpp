// What every process that sends requests gives to the core: the delivery workers, and sessions that deliver
// synchronously.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// From the settings as they are now. The policy and the texts stay valid until the settings change.
core::EngineSettings sender_engine_settings();
core::OutboxLimits sender_limits();

// "whisperer/<version> (PostgreSQL <major>)", static.
core::Slice sender_user_agent();

} // namespace whisperer::pg
