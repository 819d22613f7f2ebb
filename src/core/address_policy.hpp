// Where requests may go: judged on the binary address that is really dialled.
//
// Refused unless opened: loopback, private, shared (RFC 6598), link-local, multicast, reserved, benchmark, documentation
// and unspecified addresses, v4 and v6, also when a v4 address hides in a v6 one (v4-mapped, v4-compatible, NAT64
// 64:ff9b::/96 and 64:ff9b:1::/48, 6to4 2002::/16, Teredo). Source: IANA special-purpose registries, RFC 6890.
#pragma once

#include "core/no_postgres.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

namespace whisperer::core {

// A v4 address uses the first four bytes.
struct Address {
    bool v6;
    std::array<uint8_t, 16> bytes; // network order
};

struct Network {
    Address address;
    int prefix; // bits
};

// Plain data, fixed size, so that it can be copied anywhere.
struct AddressPolicy {
    static constexpr size_t max_allowed = 256;
    size_t allowed_count;
    Network allowed[max_allowed];
};

enum class AddressVerdict : uint8_t { allowed, refused };

// May this address be dialled? An allowed network opens the addresses in it; a v4 network also opens the v6 forms of its
// addresses (mapped, compatible, NAT64, 6to4), since they reach the same host.
AddressVerdict judge(const AddressPolicy &policy, const Address &address) noexcept;

// The kind of a refused address for an error message ("loopback", "private", ...), or null if it is public.
const char *special_kind(const Address &address) noexcept;

} // namespace whisperer::core
