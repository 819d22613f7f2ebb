#include "core/ca_file.hpp"

#include "tls_server.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <fstream>
#include <sys/stat.h>

namespace whisperer::core::test {
namespace {

TEST(CaFile, IsLookedAt) {
    const TlsServer server; // for its directory, with a certificate and a key
    const auto look = [&](const char *name) { return look_at_ca_file((server.directory + name).c_str()); };
    EXPECT_EQ(look("/cert"), CaFile::good);
    EXPECT_EQ(look("/key"), CaFile::empty);
    EXPECT_EQ(look(""), CaFile::no_file);
    EXPECT_EQ(look("/nothing"), CaFile::unreadable);
    EXPECT_EQ(errno, ENOENT);
    EXPECT_EQ(look_at_ca_file("/dev/null"), CaFile::no_file);
    ASSERT_EQ(mkfifo((server.directory + "/pipe").c_str(), 0600), 0);
    EXPECT_EQ(look("/pipe"), CaFile::no_file);

    std::ofstream(server.directory + "/none") << "root:x:0:0\n-----BEGIN CERTIFICATE-----\nAAAA\n";
    EXPECT_EQ(look("/none"), CaFile::empty);
    std::ifstream certificate(server.certificate());
    std::ofstream(server.directory + "/comments") << "# ours\n\n" << certificate.rdbuf();
    EXPECT_EQ(look("/comments"), CaFile::good);
}

} // namespace
} // namespace whisperer::core::test
