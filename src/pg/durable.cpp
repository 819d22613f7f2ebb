#include "pg/prelude.hpp"

#include "pg/compat.hpp"
#include "pg/durable.hpp"

extern "C" {
#include "access/transam.h"
#include "access/xlog.h"
#include "storage/lwlock.h"
}

namespace whisperer::pg {

namespace {

// The position up to which the log must be on disk for this commit to be; 0: it is. The commit log keeps it
// only for recent asynchronous commits, and keeps itself only as far back as anybody may ask: what is older
// has long been flushed.
XLogRecPtr commit_position(uint64 xid, FullTransactionId next) {
    if (U64FromFullTransactionId(next) - xid > (uint64)INT32_MAX)
        return InvalidXLogRecPtr;
    XLogRecPtr position = InvalidXLogRecPtr;
    TransactionId short_xid = (TransactionId)xid;
    LWLockAcquire(XactTruncationLock, LW_SHARED);
    if (!TransactionIdPrecedes(short_xid, compat_oldest_clog_xid()))
        position = TransactionIdGetCommitLSN(short_xid);
    LWLockRelease(XactTruncationLock);
    return position;
}

} // namespace

void flush_commits(const uint64 *xids, size_t count) {
    if (count == 0)
        return;
    FullTransactionId next = ReadNextFullTransactionId();
    XLogRecPtr wanted = InvalidXLogRecPtr;
    for (size_t i = 0; i < count; i++)
        if (i == 0 || xids[i] != xids[i - 1])
            wanted = Max(wanted, commit_position(xids[i], next));
    if (!XLogRecPtrIsInvalid(wanted))
        XLogFlush(wanted);
}

} // namespace whisperer::pg
