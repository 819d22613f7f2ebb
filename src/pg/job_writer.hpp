// Writing whisperer.job: which calls of users' functions an attempt asks for. Part of recording it, and in
// the same transaction, so that a call is made at least once if and only if the attempt is recorded.
#pragma once

#include "pg/prelude.hpp"
#include "pg/roster.hpp"

namespace whisperer::pg {

struct JobBatch; // palloc'ed

// Inside internal_begin(), or in a worker's transaction. At most `capacity` jobs are added before
// jobs_write(), which inserts them and notes that those who make the calls must hear of it at commit.
JobBatch *jobs_begin(size_t capacity);
void jobs_add(JobBatch *batch, JobKind kind, const core::AttemptResult &result);
void jobs_write(const JobBatch *batch);

// The kind as the table has it.
constexpr char job_letter(JobKind kind) {
    return kind == JobKind::callback ? 'c' : 'n';
}

} // namespace whisperer::pg
