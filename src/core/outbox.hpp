// The outbox: what a delivery worker knows and decides between the tables and the HTTP engine.
//
// It holds the subscriptions the worker owns, a bounded look-ahead of their deliveries, the requests in
// flight and the results not yet recorded. Everything else stays in the table, and the outbox says what to
// read next:
//
//     plan_new / plan_retries → (the shell queries) → add_row … → finish_reads
//     start → engine → step → results → (the shell records) → recorded / postpone
//
// Fairness. Each subscription has a window, the number of its requests that may be in flight: it starts with
// one, doubles with each delivery up to its limit, and halves with each failure. And each has a standing:
// good (its last attempt was answered with 2xx), unknown, failing (its last attempt failed, within a second),
// or hanging (after more than a second, or its requests have made no progress for one). Those that hang may
// fill a quarter of the worker's slots, those that fail another one, these and the unknown three quarters;
// and each standing gets a few slots however busy the others are. Whoever begins to hang was good before: the
// last eighth of the slots is for those with less in flight than there are slots left, subscriptions as well
// as the roles that own them. Within a standing, subscriptions take turns, one delivery at a time.
//
// A monitor: its functions may be called from two threads, one of which sends (start, step, timeout_ms, and
// the engine itself) while the other one reads, records and does everything else. With a single thread it is
// the same. The engine does its work in step() without the lock; the rest takes microseconds.
//
// noexcept throughout; where memory runs out a call returns false and the work stays in the table.
#pragma once

#include "core/countdown.hpp"
#include "core/horizon.hpp"
#include "core/http_engine.hpp"
#include "core/slice.hpp"
#include "core/token_auth.hpp"
#include "core/uuid7.hpp"
#include "core/verdict.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace whisperer::core {

// Wall clock: microseconds since the Unix epoch.
using WallMicros = int64_t;
constexpr WallMicros never = INT64_MAX;

// A subscription as the table has it. Copied by put_subscription(). All text is UTF-8.
struct SubscriptionFields {
    int64_t id;
    uint32_t owner; // a number for the role whose it is
    int bucket;     // of the dirty bits, 0 … bucket_count - 1
    Slice url;
    const Slice *header_lines; // the user's: "Name: value"
    size_t header_count;
    bool has_secret;
    Slice secret;
    Slice authorization; // value of the Authorization header from config.auth; empty: none
    TokenFields token;   // or where to get it
    Micros connect_timeout;
    Micros response_timeout;
    int max_attempts;
    int max_in_flight;     // 0: as for all, OutboxLimits::max_in_flight_per_subscription
    Countdown countdown;   // its schedule is copied too
    bool custom_countdown; // `countdown` only holds until the user's own function, called elsewhere, has said
                           // better
    bool has_callback;     // the responses' headers are kept for it
    bool sendable;         // active, not ended, its owner exists
};

// What was learnt of a receiver; kept in whisperer.subscription_state.
struct ReceiverState {
    int64_t subscription;
    int consecutive_failures;
    WallMicros paused_until; // 0: not paused
    int last_status;         // 0: no response
    Slice last_error;
};

// A delivery as read from the table. Copied by add_row().
struct DeliveryRow {
    Uuid uuid;
    Xid xid;
    WallMicros due;        // retries only
    WallMicros not_before; // 0: none; new ones only
    int attempts;          // made so far
    Slice event_type;
    Slice payload; // or the whole body, when `whole_body`
    bool whole_body;
    bool body_missing; // too large to be read ahead: wanted_body() will ask for it
};

// Read new deliveries of a subscription: (xid, uuid) > (lo, after), xid < hi, in that order, at most `limit`.
struct NewRead {
    int64_t subscription;
    Xid lo;
    Xid hi;
    Uuid after;
    int limit;
};

// Read retries: (due, uuid) > (due, after), in that order, at most `limit`; no upper bound, since the first
// one that is not due yet says when to come back.
struct RetryRead {
    int64_t subscription;
    WallMicros due;
    Uuid after;
    int limit;
};

// A new delivery that is to wait until `due`.
struct Adoption {
    Uuid uuid;
    int64_t subscription;
    WallMicros due;
};

// An attempt that ended. Valid until settle_results().
struct AttemptResult {
    Uuid uuid;
    int64_t subscription;
    Outcome outcome;
    int attempts; // with this one
    int status;   // 0: no response
    Slice error;  // empty: none
    Slice body;   // of the response
    bool body_truncated;
    Slice headers; // lines separated by CRLF; only with has_callback, and cut
    bool has_callback;
    bool custom_countdown;
    Micros elapsed;
    WallMicros attempted_at; // 0: no request was made (given up after crashes)
    WallMicros due;          // outcome retry
    Xid xid; // of the row when the attempt began: another one now has been asked for meanwhile
};

// How often a delivery was in flight when the worker crashed.
struct CrashCount {
    int crashes; // at all
    int alone;   // with no other that could have been the cause
};

// Told of take-off and landing, so that a crash leaves behind what was in flight. Called from both threads,
// under the outbox's lock. Must not throw.
struct FlightRecorder {
    void *context;
    // A request is about to be sent. `alone`: it is a suspect, the only one in flight. Returns a slot for
    // landed().
    int (*took_off)(void *context, const Uuid &uuid, int64_t subscription, bool alone,
                    const CrashCount &before);
    void (*landed)(void *context, int slot);
    // Is somebody else sending it at this moment? Asked after took_off(), so that of two who want to send it
    // at least one sees the other. May be null: never.
    bool (*claimed)(void *context, const Uuid &uuid) = nullptr;
    // What was in flight at a crash is settled, or gone, without having taken off again. May be null.
    void (*acquitted)(void *context, const Uuid &uuid) = nullptr;
    // Grows whenever somebody takes back what may have been read already: cancels it, or has sent it. Nothing
    // is sent until recalls_handled() was told of the same number. Asked after claimed(). May be null: never.
    unsigned (*recalls)(void *context) = nullptr;
    // So many requests are under way now. May be null.
    void (*in_flight)(void *context, size_t requests) = nullptr;
};

struct OutboxLimits {
    int max_in_flight;
    int max_in_flight_per_subscription;
    size_t max_response_body;
};

class Outbox {
  public:
    static constexpr int bucket_count = 4096;

    // `engine` becomes the outbox's own. `user_agent` is copied. Null: out of memory (the engine is then
    // deleted).
    static Outbox *create(HttpEngine *engine, const OutboxLimits &limits, const Random &random,
                          const FlightRecorder &recorder, Slice user_agent) noexcept;
    ~Outbox();
    Outbox(const Outbox &) = delete;
    Outbox &operator=(const Outbox &) = delete;

    // For its wait_fd().
    HttpEngine *engine() noexcept;
    // The engine has them from the next step() on. False: out of memory.
    bool configure(const EngineSettings &settings) noexcept;
    void set_limits(const OutboxLimits &limits) noexcept;

    // --- subscriptions
    bool put_subscription(const SubscriptionFields &fields) noexcept;
    void remove_subscription(int64_t id) noexcept;
    void
    set_receiver_state(const ReceiverState &state) noexcept; // as the table has it; the longer pause holds
    // The next receiver whose state changed and is to be saved; false when there is none. Given at most once
    // a second each, except what must not be lost (a pause), or when `now` is at_once. A 410 sets
    // *deactivate.
    static constexpr Micros at_once = INT64_MAX;
    // *state is valid until the next call.
    bool next_changed_state(ReceiverState *state, bool *deactivate, Micros now) noexcept;
    void state_not_saved(int64_t subscription, bool deactivate) noexcept;
    bool has_changed_states() const noexcept;
    // What an attempt made by somebody else taught: a success when there are no consecutive failures, else
    // one more failure. The longer pause holds.
    void learn_elsewhere(const ReceiverState &state, bool deactivate) noexcept;

    // --- reading
    void mark_bucket_dirty(int bucket) noexcept;
    void mark_all_dirty() noexcept;
    bool wants_read(WallMicros now) noexcept;
    // Is there anything at all for which the shell would have to look into the tables?
    bool wants_tables(WallMicros now) noexcept;
    bool set_snapshot(Xid xmin, Xid xmax, const Xid *running, size_t count) noexcept;
    size_t plan_new(NewRead *reads, size_t capacity) noexcept;
    size_t plan_retries(RetryRead *reads, size_t capacity, WallMicros now) noexcept;
    // Row of the read with this index; in the order of the query. False: out of memory (finish with ok =
    // false).
    bool add_new(size_t read, const DeliveryRow &row, WallMicros now) noexcept;
    bool add_retry(size_t read, const DeliveryRow &row, WallMicros now) noexcept;
    // ok = false: the query failed or was not completed; nothing is taken as read.
    void finish_reads(bool ok) noexcept;
    // New rows that are to wait: the shell writes their not_before to due. Like next_changed_state().
    bool wants_adoptions(WallMicros now) const noexcept;
    bool next_adoption(Adoption *adoption, WallMicros now) noexcept;
    void adopted(const Adoption &adoption) noexcept;
    void adoption_failed(const Adoption &adoption,
                         WallMicros again) noexcept; // its row is locked: none before `again`
    // A transaction that read failed after finish_reads(): everything is read again, what is in memory is
    // recognised.
    void read_all_again() noexcept;
    // Large bodies are loaded just before they are sent.
    bool wants_bodies() const noexcept;
    bool wanted_body(Uuid *uuid) noexcept;
    void give_body(const Uuid &uuid, Slice payload, bool whole_body) noexcept;
    // The row is there, and its payload is not (yet): the attempt fails, and the countdown looks again.
    void body_lost(const Uuid &uuid) noexcept;
    void body_gone(const Uuid &uuid) noexcept; // the row is not there any more
    // Deliveries read but not sent, of subscriptions whose bucket became dirty: they may have been cancelled
    // meanwhile.
    bool has_unsent_to_check() const noexcept;
    // `attempts` and `xids`, where given, are those that each row had when it was read.
    size_t unsent(Uuid *uuids, size_t capacity, int *attempts = nullptr, Xid *xids = nullptr) noexcept;
    void drop_unsent(const Uuid &uuid) noexcept;
    // What was taken back before FlightRecorder::recalls() gave this number has been dropped.
    void recalls_handled(unsigned number) noexcept;

    // --- deliveries that are handed over instead of being read (a synchronous delivery)
    // May something be sent to it now: is it known, active, and not paused?
    bool accepts(int64_t subscription, WallMicros now) const noexcept;
    // Takes a delivery of a known subscription. False: out of memory.
    bool add_delivery(int64_t subscription, const DeliveryRow &row) noexcept;
    // Deliveries in memory: unsent, in flight, or not recorded.
    size_t deliveries() const noexcept;

    // --- crashes
    // Was in flight when a worker crashed. To be called before reading. After a first crash among others it
    // is sent like any other, since most crashes are not the delivery's fault (a kill). After a second one,
    // or one with it alone in flight, it is a suspect: one of them is sent at a time. After three alone it is
    // given up.
    bool add_suspect(const Uuid &uuid, const CrashCount &count) noexcept;

    // --- sending
    // False: start() starts nothing, and nothing has been started when this returns. At first true.
    void allow_sending(bool allowed) noexcept;
    void start(Micros now, WallMicros wall) noexcept;
    void step(Micros now, WallMicros wall) noexcept;
    size_t in_flight() const noexcept;
    // How long may whoever steps wait? 0: not at all; -1: until something happens. Not `sending`: start() is
    // not going to be called, nor is anything read.
    int timeout_ms(Micros now, WallMicros wall, bool sending = true) noexcept;

    // --- results
    size_t result_count() const noexcept;     // waiting to be recorded, postponed ones left out
    size_t unrecorded_count() const noexcept; // these, too
    AttemptResult result(size_t index) const noexcept;
    // Marks result `index`; settle_results() then forgets the recorded ones and puts the postponed ones
    // (whose rows are locked by somebody) aside until `again`.
    void recorded(size_t index) noexcept;
    void postpone(size_t index, WallMicros again) noexcept;
    void settle_results() noexcept;
    // All that were postponed are to be recorded now.
    void end_postponements() noexcept;

  private:
    struct Impl;
    explicit Outbox(std::unique_ptr<Impl> impl) noexcept;
    std::unique_ptr<Impl> impl_;
};

} // namespace whisperer::core
