// What the planner is told of may_see(), the policy of the large tables.
//
// To somebody who sees all rows, or many, it is a cheap condition: plans are as without it. To somebody who
// sees only a few of a large table's rows a walk along an index by time, past everybody else's, would take as
// long as the table is large. For them the condition is offered as one for an index, `subscription_id = ANY
// (visible_subscriptions())`, and asking row by row is declared dear. How many they are is looked up, in the
// index and up to a limit, when the query is planned.
//
// A plan that is kept stays right whatever changes later: both forms of the condition are evaluated when it
// runs.
#include "pg/prelude.hpp"

#include "pg/own_table.hpp"
#include "pg/relation_name.hpp"
#include "pg/visibility.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_opfamily_d.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

// More rows than these are many: walking along an index by time then meets one soon enough, unless all of
// them are old.
constexpr int few_rows = 1000;

// Per row: so much that a walk past others' rows looks worse than any look-up of one's own, and so little
// that the JIT compiler is not tempted by the few rows that remain.
constexpr double dear = 25.0;

struct Estimate {
    Oid role;
    Oid relation;
    TimestampTz statement;
    CommandId command;
    bool known;
    bool few;
    double selectivity;
};

// Rows of these subscriptions in the table, counted in the index up to few_rows.
int count_rows(Relation relation, Oid index, const Datum *ids, int count) {
    AttrNumber column = get_attnum(RelationGetRelid(relation), "subscription_id");
    int rows = 0;
    for (int i = 0; i < count && rows < few_rows; i++) {
        ScanKeyData key;
        ScanKeyInit(&key, column, BTEqualStrategyNumber, F_INT8EQ, ids[i]);
        SysScanDesc scan = systable_beginscan(relation, index, true, own_snapshot(), 1, &key);
        while (rows < few_rows && HeapTupleIsValid(systable_getnext(scan)))
            rows++;
        systable_endscan(scan);
    }
    return rows;
}

void fill(Estimate *estimate, Oid index) {
    Viewer viewer = viewer_of(estimate->role);
    estimate->few = false;
    estimate->selectivity = 1.0;
    if (viewer.others != Sight::none)
        return;
    Datum *ids;
    int count;
    ArrayType *visible = visible_subscriptions(viewer);
    deconstruct_array(visible, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &ids, nullptr,
                      &count);
    Relation relation = table_open(estimate->relation, AccessShareLock);
    int rows = count >= few_rows ? few_rows : count_rows(relation, index, ids, count);
    double all = Max((double)relation->rd_rel->reltuples, 1.0);
    table_close(relation, AccessShareLock);
    estimate->few = rows < few_rows;
    // Few rows are made fewer still: a LIMIT shall not make the walk look short.
    estimate->selectivity = estimate->few ? Min(Max(rows / 100.0, 1.0) / all, 1.0) : 0.3;
}

// Index of the table by which rows of a subscription are counted; InvalidOid: not a table of that kind.
Oid counting_index(Oid relation) {
    const char *name = get_rel_name(relation);
    if (name == nullptr || get_rel_namespace(relation) != get_namespace_oid("whisperer", true))
        return InvalidOid;
    if (strcmp(name, "history") == 0 || strcmp(name, "delivery") == 0)
        return relation_of_name("whisperer", psprintf("%s_by_subscription", name));
    return InvalidOid;
}

// The planner asks several times for each table of a query.
const Estimate *estimate_for(Oid relation) {
    static Estimate kept[2];
    Oid index = counting_index(relation);
    if (!OidIsValid(index))
        return nullptr;
    Estimate wanted = {
        GetUserId(), relation, GetCurrentStatementStartTimestamp(), GetCurrentCommandId(false), false,
        false,       1.0};
    for (Estimate &estimate : kept)
        if (estimate.known && estimate.role == wanted.role && estimate.relation == wanted.relation &&
            estimate.statement == wanted.statement && estimate.command == wanted.command)
            return &estimate;
    fill(&wanted, index);
    wanted.known = true;
    kept[0] = kept[1];
    kept[1] = wanted;
    return &kept[1];
}

// Of the table whose column is the function's argument; null when it is something else.
const Estimate *estimate_of(PlannerInfo *root, List *arguments) {
    if (root == nullptr || list_length(arguments) != 1 || !IsA(linitial(arguments), Var))
        return nullptr;
    const Var *column = (const Var *)linitial(arguments);
    if (column->varlevelsup != 0 || column->varno <= 0 || column->varno >= root->simple_rel_array_size)
        return nullptr;
    RangeTblEntry *table = planner_rt_fetch(column->varno, root);
    return table != nullptr && table->rtekind == RTE_RELATION ? estimate_for(table->relid) : nullptr;
}

Node *selectivity(SupportRequestSelectivity *request) {
    const Estimate *estimate = request->is_join ? nullptr : estimate_of(request->root, request->args);
    if (estimate == nullptr)
        return nullptr;
    request->selectivity = estimate->selectivity;
    return (Node *)request;
}

Node *cost(SupportRequestCost *request) {
    if (request->node == nullptr || !IsA(request->node, FuncExpr))
        return nullptr;
    const Estimate *estimate = estimate_of(request->root, ((FuncExpr *)request->node)->args);
    if (estimate == nullptr || !estimate->few)
        return nullptr;
    request->startup = 0;
    request->per_tuple = dear;
    return (Node *)request;
}

Oid visible_subscriptions_function(Oid may_see) {
    return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("visible_subscriptions"),
                           PointerGetDatum(buildoidvector(nullptr, 0)),
                           ObjectIdGetDatum(get_func_namespace(may_see)));
}

// subscription_id = ANY (whisperer.visible_subscriptions()), which is the same condition.
Node *index_condition(SupportRequestIndexCondition *request) {
    if (request->opfamily != INTEGER_BTREE_FAM_OID || !IsA(request->node, FuncExpr))
        return nullptr;
    FuncExpr *may_see = (FuncExpr *)request->node;
    const Estimate *estimate = estimate_of(request->root, may_see->args);
    Oid function =
        estimate != nullptr && estimate->few ? visible_subscriptions_function(may_see->funcid) : InvalidOid;
    if (!OidIsValid(function))
        return nullptr;
    ScalarArrayOpExpr *condition = makeNode(ScalarArrayOpExpr);
    condition->opno = get_opfamily_member(request->opfamily, INT8OID, INT8OID, BTEqualStrategyNumber);
    condition->opfuncid = F_INT8EQ;
    condition->useOr = true;
    condition->args =
        list_make2(linitial(may_see->args),
                   makeFuncExpr(function, INT8ARRAYOID, NIL, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL));
    condition->location = -1;
    request->lossy = false;
    return (Node *)list_make1(condition);
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

// Support function of whisperer.may_see().
WHISPERER_SQL_FUNCTION(whisperer_may_see_support) {
    Node *request = (Node *)PG_GETARG_POINTER(0);
    Node *answer = nullptr;
    if (IsA(request, SupportRequestSelectivity))
        answer = selectivity((SupportRequestSelectivity *)request);
    else if (IsA(request, SupportRequestCost))
        answer = cost((SupportRequestCost *)request);
    else if (IsA(request, SupportRequestIndexCondition))
        answer = index_condition((SupportRequestIndexCondition *)request);
    PG_RETURN_POINTER(answer);
}
