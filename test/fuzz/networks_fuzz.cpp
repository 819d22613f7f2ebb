// Whatever the text of a list of networks: what is accepted are blocks, and the list of these says the same.
#include "core/networks.hpp"
#include "fuzz.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <memory>

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

namespace {

std::string written(const Network &network) {
    char text[INET6_ADDRSTRLEN] = "";
    inet_ntop(network.address.v6 ? AF_INET6 : AF_INET, network.address.bytes.data(), text, sizeof text);
    return std::string(text) + "/" + std::to_string(network.prefix);
}

// An address that has a v4 one in it is for v4 networks to open, unless the block is of one form only:
// mapped, compatible, NAT64, 6to4.
bool is_for_v4(const Network &network, const Address &address) {
    const auto begins = [&address](std::initializer_list<uint8_t> bytes) {
        return std::equal(bytes.begin(), bytes.end(), address.bytes.begin());
    };
    return address.v6 && ((network.prefix < 16 && begins({0x20, 0x02})) ||
                          (network.prefix < 96 &&
                           (begins({0, 0x64, 0xff, 0x9b}) || begins({0, 0, 0, 0, 0, 0, 0, 0, 0, 0}))));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const Slice text = {reinterpret_cast<const char *>(data), size};
    const auto policy = std::make_unique<AddressPolicy>();
    policy->allowed_count = 77;
    FieldError error{};
    if (!parse_networks(text, policy.get(), &error)) {
        require(policy->allowed_count == 77);
        require_readable(error);
        return 0;
    }
    require(policy->allowed_count <= AddressPolicy::max_allowed);
    std::string list;
    for (size_t i = 0; i < policy->allowed_count; i++) {
        const Network &network = policy->allowed[i];
        const int bits = network.address.v6 ? 128 : 32;
        require(network.prefix >= 0 && network.prefix <= bits);
        for (int bit = network.prefix; bit < bits; bit++) // nothing behind the prefix
            require((network.address.bytes[static_cast<size_t>(bit) / 8] >> (7 - bit % 8) & 1) == 0);
        // The block is open, from its first address to its last.
        require(is_for_v4(network, network.address) ||
                judge(*policy, network.address) == AddressVerdict::allowed);
        Address last = network.address;
        for (int bit = network.prefix; bit < bits; bit++)
            last.bytes[static_cast<size_t>(bit) / 8] |= static_cast<uint8_t>(0x80 >> bit % 8);
        require(is_for_v4(network, last) || judge(*policy, last) == AddressVerdict::allowed);
        list.append(i == 0 ? "" : ",").append(written(network));
    }
    const auto again = std::make_unique<AddressPolicy>();
    require(parse_networks(slice(list), again.get(), nullptr));
    require(again->allowed_count == policy->allowed_count);
    for (size_t i = 0; i < policy->allowed_count; i++)
        require(written(again->allowed[i]) == written(policy->allowed[i]));
    return 0;
}
