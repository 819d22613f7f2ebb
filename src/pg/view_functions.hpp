// What the views compute in C.
//
// whisperer.request_body(event_type, uuid, body, payload): the whole body of a delivery's requests. A
// function, and declared costly, so that the planner computes it after a sort and a limit, for the rows shown
// only.
#pragma once

#include "pg/prelude.hpp"
