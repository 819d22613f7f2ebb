#include "core/ca_file.hpp"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include <cstdio>

namespace whisperer::core {

CaFile look_at_ca_file(const char *path) noexcept {
    struct stat status;
    if (stat(path, &status) != 0)
        return CaFile::unreadable;
    if (!S_ISREG(status.st_mode)) // a pipe would be waited for
        return CaFile::no_file;
    FILE *file = fopen(path, "re");
    if (file == nullptr)
        return CaFile::unreadable;
    X509 *certificate = PEM_read_X509(file, nullptr, nullptr, nullptr); // the first
    fclose(file);
    ERR_clear_error();
    if (certificate == nullptr)
        return CaFile::empty;
    X509_free(certificate);
    return CaFile::good;
}

} // namespace whisperer::core
