// Where requests may go: judged on the binary address that is really dialled.
//
// Refused unless opened: loopback, private, shared (RFC 6598), link-local, multicast, reserved, benchmark,
// documentation and unspecified addresses, v4 and v6. Sources: IANA's special-purpose address registries (RFC
// 6890) and its IPv6 address space registry; of v6 nothing but 2000::/3 is assigned, so the rest is reserved.
//
// A v4 address that hides in a v6 one (v4-mapped ::ffff:0:0/96, NAT64 64:ff9b::/96, 6to4 2002::/16) is judged
// as the v4 address it is. All are refused where the hidden address cannot be known (NAT64 under
// 64:ff9b:1::/48 depends on the local prefix), leads elsewhere (Teredo 2001::/32), or is in a form long
// deprecated (v4-compatible ::/96).
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

// May this address be dialled? An allowed network opens the addresses in it. A v4 network also opens the
// mapped, compatible, NAT64 and 6to4 forms of its addresses, since they reach the same host. A v6 network
// opens such forms only when it lies within their block: "::/0" means v6 and is no way around the v4 list.
AddressVerdict judge(const AddressPolicy &policy, const Address &address) noexcept;

// The kind of a refused address for an error message ("loopback", "private", ...), or null if it is public. A
// static text.
const char *special_kind(const Address &address) noexcept;

} // namespace whisperer::core
