// The HTTP engine against a receiver that sends whatever the fuzzer thinks of, in pieces of its choice, and
// then falls silent, closes or resets. Every request ends, once, within its time; what its result says is in
// bounds; and nobody is answered who has not asked: bytes that come before a request are not its response.
//
// All in one thread: the receiver's sockets are served between the engine's steps.
#include "engine_owner.hpp"

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

// Input: two bytes of plan, then the receiver's script.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const uint8_t first = input.byte();
    const uint8_t second = input.byte();
    constexpr size_t bodies[] = {65536, 0, 1, 100};
    constexpr Ending endings[] = {Ending::silence, Ending::close, Ending::close, Ending::reset};
    Script script{};
    script.answers = parse_answers(input.rest(), false);
    script.unasked = (first & 4) != 0;
    script.secure = (first & 8) != 0;
    script.ending = endings[first >> 6];
    Plan plan{};
    plan.requests = 1 + (first & 3) % 3;
    plan.secure = script.secure;
    plan.proxy = (first & 16) != 0;
    plan.at_once = (first & 32) != 0;
    plan.max_body = bodies[second & 3];
    plan.configures = (second >> 2 & 3) == 3;
    plan.event_step = 1 + (second >> 4);
    Receiver receiver(std::move(script));
    Owner(plan, &receiver).run();
    return 0;
}
