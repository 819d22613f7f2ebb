// The text of the setting whisperer.allowed_networks.
#pragma once

#include "core/address_policy.hpp"
#include "core/field_error.hpp"
#include "core/no_postgres.hpp"
#include "core/slice.hpp"

namespace whisperer::core {

// CIDR blocks separated by commas or white space; a bare address is a block of one. Bits set behind the
// prefix are refused, as is a v6 zone; a v4-mapped v6 block is taken for the v4 block it is. Empty text:
// nothing is opened. False: *error names the bad item, and *policy is unchanged. `field` names the setting or
// argument in the error.
bool parse_networks(Slice text, AddressPolicy *policy, FieldError *error,
                    const char *field = "whisperer.allowed_networks") noexcept;

} // namespace whisperer::core
