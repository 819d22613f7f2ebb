// Files of certificates, looked at before a receiver is verified with one.
#pragma once

#include "core/no_postgres.hpp"

namespace whisperer::core {

enum class CaFile {
    good,
    unreadable, // errno says why
    no_file,    // something else, a directory for instance
    empty       // no certificate in it
};

CaFile look_at_ca_file(const char *path) noexcept;

} // namespace whisperer::core
