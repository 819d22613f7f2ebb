// Token authentication within the outbox.
//
// When a subscription needs a token and has none, the delivery whose turn it is asks for one: its request
// goes to the token server first, and the other deliveries of the subscription wait meanwhile. With the token
// it goes back to the front of the queue, as if nothing had been; without one, that was its attempt, and it
// failed. A token server that hangs is, to everybody else, a receiver that hangs.
#include "core/outbox_impl.hpp"

#include <new>

namespace whisperer::core {

// Another source makes the old token, and the answer to a request under way, worthless.
void Outbox::Impl::set_token_source(Subscription *subscription, const TokenFields &fields) {
    Token &token = subscription->token;
    std::string form = fields.url.empty() ? std::string() : token_form(fields);
    if (token.url == fields.url.view() && token.form == form && token.key == fields.token_key.view() &&
        token.format == fields.header_format.view())
        return;
    token.serial++; // first: if memory runs out below, it is set again later, and differs then
    token.asking = false;
    token.authorization.clear();
    token.form = std::move(form);
    token.key.assign(fields.token_key.view());
    token.format.assign(fields.header_format.view());
    token.url.assign(fields.url.view());
}

bool Outbox::Impl::needs_token(const Subscription &subscription, Micros now) const noexcept {
    const Token &token = subscription.token;
    return !token.url.empty() && (token.authorization.empty() || now - token.obtained_at >= token_lifetime);
}

Launch Outbox::Impl::ask_token(Item *item, Micros now, WallMicros wall) {
    Subscription *subscription = item->subscription;
    Token &token = subscription->token;
    std::string agent("User-Agent: ");
    agent.append(user_agent);
    const Slice headers[] = {slice("Content-Type: application/x-www-form-urlencoded"),
                             slice("Accept: application/json"), slice(agent)};
    HttpRequest request{};
    request.url = slice(token.url);
    request.headers = headers;
    request.header_count = sizeof(headers) / sizeof(headers[0]);
    request.body = slice(token.form);
    request.max_response_body = max_token_answer;
    Launch result = take_off(item, &request, now, wall);
    if (result == Launch::sent) {
        item->asks_token = true;
        token.asking = true;
    }
    return result;
}

void Outbox::Impl::take_token(Item *item, const HttpResult &http, Micros now, WallMicros wall) {
    Subscription *subscription = item->subscription;
    bool wanted =
        subscription != nullptr && subscription->sendable && item->token_serial == subscription->token.serial;
    if (wanted) {
        Token &token = subscription->token;
        TokenAnswer answer = read_token_answer(http, token.url, token.key, token.format);
        if (!answer.error.empty()) {
            HttpResult failed{};
            failed.tag = http.tag;
            failed.failure = http.failure == Failure::none ? Failure::malformed : http.failure;
            failed.error = slice(answer.error);
            failed.elapsed = http.elapsed;
            token.asking = false;
            conclude(item, failed, now, wall);
            return;
        }
        token.authorization = std::move(answer.authorization);
        token.obtained_at = now;
        token.serial++; // tells this token from the one before
        token.asking = false;
    } else if (subscription != nullptr && item->token_serial == subscription->token.serial)
        subscription->token.asking = false;

    // Back to where it was; what happened to it meanwhile, a cancel() for instance, shows there.
    // What may throw comes first: this is done again then.
    bool keep = subscription != nullptr && subscription->sendable;
    if (keep) {
        recheck.insert(subscription);
        auto &queue = item->suspect ? suspect_queue : subscription->queue;
        queue.push_front(item);
    }
    item->asks_token = false;
    leave_flight(item, now);
    land(item);
    if (!keep) {
        remember_crashes(*item);
        forget(item);
        return;
    }
    try {
        make_ready(subscription);
    } catch (const std::bad_alloc &) {
        // It is made ready when something is read for it.
    }
}

} // namespace whisperer::core
