/* A function that looks for no interrupts, as a library in the middle of something does not: busy until there is that file. */
#include "postgres.h"

#include <unistd.h>

#include "fmgr.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(busy_until);

Datum busy_until(PG_FUNCTION_ARGS)
{
    const char *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
    while (access(path, F_OK) != 0)
        ;
    PG_RETURN_VOID();
}
