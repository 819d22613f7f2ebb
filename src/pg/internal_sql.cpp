#include "pg/prelude.hpp"

#include "pg/internal_sql.hpp"

extern "C" {
#include "catalog/pg_authid.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"
}

namespace whisperer::pg {

namespace {

void pin(const char *name, const char *value) {
    (void)set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

SPIPlanPtr prepared(Statement *statement) {
    if (statement->plan == nullptr) {
        SPIPlanPtr plan = SPI_prepare(statement->sql, statement->argument_count, statement->argument_types);
        if (plan == nullptr)
            elog(ERROR, "whisperer could not prepare \"%s\": %s", statement->sql,
                 SPI_result_code_string(SPI_result));
        if (SPI_keepplan(plan) != 0)
            elog(ERROR, "whisperer could not keep the plan of \"%s\"", statement->sql);
        statement->plan = plan;
    }
    return statement->plan;
}

} // namespace

void internal_begin(InternalSql *state) {
    GetUserIdAndSecContext(&state->saved_user, &state->saved_context);
    SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, state->saved_context | SECURITY_RESTRICTED_OPERATION);
    state->guc_level = NewGUCNestLevel();
    pin("search_path", "pg_catalog, pg_temp");
    // Always by index: a plan made in this session while the tables were empty would scan them from end to
    // end when they are large. (What has no index then looks so dear that it would be compiled.)
    pin("enable_seqscan", "off");
    pin("jit", "off");
    // A plan has the values of its arguments: what a serializer made of data that the caller may not read.
    if (Debug_print_plan)
        pin("debug_print_plan", "off");
    int rc = SPI_connect();
    if (rc != SPI_OK_CONNECT)
        elog(ERROR, "whisperer could not connect to SPI: %s", SPI_result_code_string(rc));
}

void internal_end(const InternalSql *state) {
    int rc = SPI_finish();
    if (rc != SPI_OK_FINISH)
        elog(ERROR, "whisperer could not leave SPI: %s", SPI_result_code_string(rc));
    AtEOXact_GUC(false, state->guc_level);
    SetUserIdAndSecContext(state->saved_user, state->saved_context);
}

void internal_hide_values() {
    if (GetConfigOption("auto_explain.log_min_duration", true, false) != nullptr)
        pin("auto_explain.log_min_duration", "-1");
}

void internal_read_in_order() {
    pin("enable_sort", "off");
}

uint64 internal_execute(Statement *statement, Datum *arguments, const char *nulls, long limit) {
    int rc = SPI_execute_plan(prepared(statement), arguments, nulls, false, limit);
    if (rc < 0)
        elog(ERROR, "whisperer could not execute \"%s\": %s", statement->sql, SPI_result_code_string(rc));
    return SPI_processed;
}

uint64 internal_execute_snapshot(Statement *statement, Datum *arguments, const char *nulls,
                                 struct SnapshotData *snapshot) {
    int rc = SPI_execute_snapshot(prepared(statement), arguments, nulls, snapshot, InvalidSnapshot, true,
                                  false, 0);
    if (rc < 0)
        elog(ERROR, "whisperer could not execute \"%s\": %s", statement->sql, SPI_result_code_string(rc));
    return SPI_processed;
}

Datum spi_value(uint64 row, int number, bool *is_null) {
    return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, is_null);
}

// The core's struct has the bytes of PostgreSQL's uuid.
core::Uuid spi_uuid(uint64 row, int number) {
    bool is_null;
    core::Uuid result;
    memcpy(result.bytes, DatumGetUUIDP(spi_value(row, number, &is_null))->data, sizeof(result.bytes));
    return result;
}

Datum array_of(Datum *values, bool *nulls, size_t count, Oid type) {
    int length = (int)count;
    int lower = 1;
    int16 size;
    bool by_value;
    char align;
    get_typlenbyvalalign(type, &size, &by_value, &align);
    return PointerGetDatum(
        construct_md_array(values, nulls, 1, &length, &lower, type, size, by_value, align));
}

} // namespace whisperer::pg
