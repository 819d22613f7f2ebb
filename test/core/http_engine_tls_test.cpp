// TLS: whom the engine believes.
#include "core/http_engine.hpp"

#include "tls_server.hpp"

#include <gtest/gtest.h>

namespace whisperer::core::test {
namespace {

TEST(HttpTls, RefusesACertificateNobodyVouchesFor) {
    TlsServer server;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const Outcome outcome = owner.ask(server.url("hook.example"));
    EXPECT_EQ(outcome.failure, Failure::tls);
    EXPECT_NE(outcome.error.find("certificate"), std::string::npos) << outcome.error;
}

TEST(HttpTls, TakesTheSettingsCaAndChecksTheName) {
    TlsServer server;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const std::string ca = server.certificate();
    owner.settings.ca_file = slice(ca);
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    const std::string answer = response(200, "sealed");
    ASSERT_EQ(write(server.input, answer.data(), answer.size()), static_cast<ssize_t>(answer.size()));
    const Outcome good = owner.ask(server.url("hook.example"));
    EXPECT_EQ(good.status, 200) << good.error;
    EXPECT_EQ(good.body, "sealed");
}

TEST(HttpTls, RefusesAnotherName) {
    TlsServer server;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const std::string ca = server.certificate();
    owner.settings.ca_file = slice(ca);
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    EXPECT_EQ(owner.ask(server.url("other.example")).failure, Failure::tls);
}

TEST(HttpTls, RefusesOldVersions) {
    TlsServer server({"-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"});
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const std::string ca = server.certificate();
    owner.settings.ca_file = slice(ca);
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    const Outcome outcome = owner.ask(server.url("hook.example"));
    EXPECT_EQ(outcome.failure, Failure::tls) << outcome.error;
}

TEST(HttpTls, ABadCaFileIsNamed) {
    TlsServer server;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    owner.settings.ca_file = slice("/nonexistent/ca.pem");
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    const Outcome outcome = owner.ask(server.url("hook.example"));
    EXPECT_EQ(outcome.failure, Failure::tls);
    EXPECT_NE(outcome.error.find("/nonexistent/ca.pem"), std::string::npos) << outcome.error;
}

} // namespace
} // namespace whisperer::core::test
