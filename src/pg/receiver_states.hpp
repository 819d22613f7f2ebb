// What is learnt of receivers: consecutive failures, the pause that one asked for (Retry-After), 410.
//
// The delivery worker keeps it in memory and saves it to whisperer.subscription_state, of which it is the
// only writer: a session that held a row of it locked would hold the worker up. What a session learns by a
// synchronous delivery goes to whisperer.receiver_report, into which it only inserts, and from which the
// worker takes it after the commit.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

struct DeliveryWorker;

// The worker, in a transaction of its own: saves what changed. Then call one of the two below.
void save_receiver_states(core::Outbox *box);
void receiver_states_saved();
void receiver_states_not_saved(core::Outbox *box);

// A session, inside internal_begin(): reports what its outbox learnt. A subscription whose receiver answered
// 410 is deactivated in the caller's transaction. Wakes the workers at commit.
void report_receiver_states(core::Outbox *box);

// The worker: takes over what sessions reported of its subscriptions.
void take_receiver_reports(DeliveryWorker *worker);

} // namespace whisperer::pg
