// What of others' subscriptions and deliveries a role may see. The row-level security of the tables asks
// may_see(); the views get what only some may read through the functions of shown.cpp, since nobody has
// privileges on those columns.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/array.h"
}

namespace whisperer::pg {

// none: as if it were not there. masked: without bodies, responses, values of headers, and of a URL scheme
// and host only.
enum class Sight { none, masked, full };

struct Viewer {
    Oid role;
    Sight others; // of what the role does not own: full for admins, masked for monitors
};

Viewer viewer_of(Oid role);
Sight sight_of(const Viewer &viewer, Oid owner);

// Ids of the subscriptions of which the viewer sees anything, ended ones included, as bigint[]. palloc'ed.
ArrayType *visible_subscriptions(const Viewer &viewer);

// The sight of the current user on a subscription. Remembered for the query that calls the function (in
// fn_extra).
Sight sight_of_subscription(FunctionCallInfo fcinfo, int64 subscription_id);

} // namespace whisperer::pg
