// TLS: whom the engine believes.
#include "core/http_engine.hpp"

#include "tls_server.hpp"

#include <curl/curl.h>
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>

namespace whisperer::core::test {
namespace {

TEST(HttpTls, RefusesACertificateNobodyVouchesFor) {
    TlsServer server;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const Outcome outcome = owner.ask(server.url("hook.example"));
    EXPECT_EQ(outcome.failure, Failure::tls);
    EXPECT_NE(outcome.error.find("certificate"), std::string::npos) << outcome.error;
}

// Reading all certificates of the system takes longer than everything else in a connection.
TEST(HttpTls, ReadsTheSystemsCertificatesOnceForManyConnections) {
    const curl_version_info_data *curl = curl_version_info(CURLVERSION_NOW);
    if (curl->version_num < 0x075700)
        GTEST_SKIP() << "libcurl keeps nothing before 7.87";
    if (curl->cainfo == nullptr || access(curl->cainfo, R_OK) != 0)
        GTEST_SKIP() << "there is no file of them";
    TlsServer server;
    const auto cost = [&](Owner &owner, int connections) {
        timespec before{};
        timespec after{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
        for (int i = 0; i < connections; i++)
            EXPECT_EQ(owner.ask(server.url("hook.example")).failure, Failure::tls) << owner.done[0].error;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
        return static_cast<double>(after.tv_sec - before.tv_sec) * 1e3 +
               static_cast<double>(after.tv_nsec - before.tv_nsec) / 1e6;
    };
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const double first = cost(owner, 1);
    EXPECT_LT(cost(owner, 20), 10 * first);
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

// Settings taken anew read the file anew, and end connections to whom it does not vouch for any more.
TEST(HttpTls, TakesWhatHasChangedInTheFile) {
    TlsServer server;
    const TlsServer other;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const std::string file = other.directory + "/bundle";
    const auto bundle = [&](const std::vector<std::string> &certificates) {
        std::ofstream out(file);
        for (const std::string &certificate : certificates)
            out << std::ifstream(certificate).rdbuf();
        out.close();
        owner.settings.ca_file = slice(file);
        EXPECT_TRUE(owner.engine->configure(owner.settings));
    };
    bundle({other.certificate()});
    EXPECT_EQ(owner.ask(server.url("hook.example")).failure, Failure::tls);
    bundle({other.certificate(), server.certificate()});
    server.say(response(200, "sealed"));
    EXPECT_EQ(owner.ask(server.url("hook.example")).status, 200) << owner.done[0].error;
    bundle({other.certificate()});
    EXPECT_EQ(owner.ask(server.url("hook.example")).failure, Failure::tls);
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
