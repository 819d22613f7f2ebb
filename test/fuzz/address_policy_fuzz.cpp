// Whatever the address and the networks opened: a v4 address is judged alike in all its spellings, and a
// network opens what lies in it and nothing else. The model here works bit by bit.
#include "core/address_policy.hpp"
#include "fuzz.hpp"

#include <memory>

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

namespace {

bool bit_of(const Address &address, int bit) {
    return (address.bytes[static_cast<size_t>(bit) / 8] >> (7 - bit % 8) & 1) != 0;
}

bool lies_in(const Address &address, const Network &network) {
    if (address.v6 != network.address.v6 || network.prefix < 0 || network.prefix > (address.v6 ? 128 : 32))
        return false;
    for (int bit = 0; bit < network.prefix; bit++)
        if (bit_of(address, bit) != bit_of(network.address, bit))
            return false;
    return true;
}

// The v4 address within a v6 one at this byte.
Address inner(const Address &address, size_t offset) {
    Address v4{};
    for (size_t i = 0; i < 4; i++)
        v4.bytes[i] = address.bytes[offset + i];
    return v4;
}

Address embedded(const Address &v4, std::initializer_list<uint8_t> prefix, size_t offset) {
    Address v6{};
    v6.v6 = true;
    size_t i = 0;
    for (uint8_t byte : prefix)
        v6.bytes[i++] = byte;
    for (i = 0; i < 4; i++)
        v6.bytes[offset + i] = v4.bytes[i];
    return v6;
}

Address mapped(const Address &v4) {
    return embedded(v4, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 12);
}
Address nat64(const Address &v4) {
    return embedded(v4, {0, 0x64, 0xff, 0x9b}, 12);
}
Address six_to_four(const Address &v4) {
    return embedded(v4, {0x20, 0x02}, 2);
}

Address take_address(Input &input, bool v6) {
    Address address{};
    address.v6 = v6;
    for (size_t i = 0; i < (v6 ? 16 : 4); i++)
        address.bytes[i] = input.byte();
    return address;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const Address address = take_address(input, input.byte() % 2 != 0);
    const auto policy = std::make_unique<AddressPolicy>();
    require((special_kind(address) == nullptr) == (judge(*policy, address) == AddressVerdict::allowed));

    bool inside = false;  // a network has the address itself,
    bool through = false; // or the v4 address in it
    while (!input.empty() && policy->allowed_count < 8) {
        Network &network = policy->allowed[policy->allowed_count++];
        const uint8_t kind = input.byte();
        network.address = take_address(input, kind % 2 != 0);
        network.prefix = static_cast<int8_t>(input.byte());
        inside = inside || lies_in(address, network);
        for (size_t offset : {size_t{2}, size_t{12}})
            through = through || (address.v6 && lies_in(inner(address, offset), network));
    }
    const bool allowed = judge(*policy, address) == AddressVerdict::allowed;
    if (special_kind(address) == nullptr)
        require(allowed);
    else if (allowed)
        require(inside || through);
    if (address.v6)
        return 0;
    require(!inside || allowed);
    for (const Address &spelling : {mapped(address), nat64(address), six_to_four(address)}) {
        const bool public_alike = (special_kind(address) == nullptr) == (special_kind(spelling) == nullptr);
        require(public_alike);
        require(!allowed || judge(*policy, spelling) == AddressVerdict::allowed);
    }
    return 0;
}
