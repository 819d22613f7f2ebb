#include "pg/prelude.hpp"

#include "pg/error_capture.hpp"
#include "pg/errors.hpp"
#include "pg/trigger_condition.hpp"

extern "C" {
#include "nodes/parsenodes.h"
#include "parser/parser.h"
}

namespace whisperer::pg {

namespace {

constexpr const char *spaces = " \t\r\n\f\v";

[[noreturn]] void refuse_operation(const char *text) {
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("operation: \"%s\" is not INSERT, UPDATE, DELETE, or several of them joined by OR",
                   shortened(text)),
            errhint("Give 'INSERT OR UPDATE', for instance."));
}

unsigned operation_of(const char *word) {
    if (pg_strcasecmp(word, "INSERT") == 0)
        return ON_INSERT;
    if (pg_strcasecmp(word, "UPDATE") == 0)
        return ON_UPDATE;
    return pg_strcasecmp(word, "DELETE") == 0 ? ON_DELETE : 0u;
}

struct Parsing {
    const char *sql;
    List *statements;
};

void parse(void *argument) {
    Parsing *parsing = (Parsing *)argument;
    parsing->statements = raw_parser(parsing->sql, RAW_PARSE_DEFAULT);
}

// Is it a SELECT of one unnamed expression, with no other clause?
bool is_single_expression(List *statements) {
    if (list_length(statements) != 1)
        return false;
    Node *statement = linitial_node(RawStmt, statements)->stmt;
    if (!IsA(statement, SelectStmt))
        return false;
    const SelectStmt *select = (const SelectStmt *)statement;
    return list_length(select->targetList) == 1 &&
           ((ResTarget *)linitial(select->targetList))->name == nullptr && select->op == SETOP_NONE &&
           select->distinctClause == NIL && select->intoClause == nullptr && select->fromClause == NIL &&
           select->whereClause == nullptr && select->groupClause == NIL && select->havingClause == nullptr &&
           select->windowClause == NIL && select->valuesLists == NIL && select->sortClause == NIL &&
           select->limitOffset == nullptr && select->limitCount == nullptr && select->lockingClause == NIL &&
           select->withClause == nullptr;
}

void check_parses(const char *condition, const char *sql) {
    Parsing parsing = {sql, NIL};
    CapturedError error;
    bool failed = capture_error(parse, &parsing, &error);
    if (!failed && is_single_expression(parsing.statements))
        return;
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("condition: \"%s\" is not one SQL expression", shortened(condition)),
            failed ? errdetail("%s", error.message) : 0,
            errhint("Give what would stand in WHEN (...), such as 'NEW.price > 100'."));
}

} // namespace

unsigned parse_trigger_operations(const char *text) {
    unsigned operations = 0;
    char *state = nullptr;
    char *words = pstrdup(text);
    bool or_is_next = false;
    for (char *word = strtok_r(words, spaces, &state); word != nullptr;
         word = strtok_r(nullptr, spaces, &state)) {
        if (or_is_next) {
            if (pg_strcasecmp(word, "OR") != 0)
                refuse_operation(text);
        } else {
            unsigned operation = operation_of(word);
            if (operation == 0 || (operations & operation) != 0)
                refuse_operation(text);
            operations |= operation;
        }
        or_is_next = !or_is_next;
    }
    if (operations == 0 || !or_is_next)
        refuse_operation(text);
    return operations;
}

void check_trigger_condition(const char *text) {
    // Alone it must be one expression, or "a, b" would pass for a row; and in parentheses too, or "a FROM b"
    // would pass, and "a) OR (b" would with parentheses only. The line ends keep a comment at its end to
    // itself.
    check_parses(text, psprintf("SELECT\n%s\n", text));
    check_parses(text, psprintf("SELECT (\n%s\n)", text));
}

} // namespace whisperer::pg
