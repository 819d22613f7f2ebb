// Makes mixing the layers a compile error: the core is built without PostgreSQL (see ARCHITECTURE.md,
// "Layers").
#pragma once

#ifdef POSTGRES_H
#error                                                                                                       \
    "src/core must not see PostgreSQL's headers: include core headers before postgres.h (src/pg/prelude.hpp does)"
#endif
