// TLS: whom the engine believes.
#include "core/http_engine.hpp"

#include "tls_server.hpp"

#include <curl/curl.h>
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <openssl/crypto.h>
#include <sys/mman.h>
#include <unistd.h>

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

// OpenSSL's own configuration and level of security refuse old versions, too, but not on every machine: here
// they allow all, before anything uses OpenSSL, so that it is the engine that does not.
const bool everything_is_allowed = [] {
    const std::string text =
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = defaults\n[defaults]\n"
        "MinProtocol = TLSv1\nCipherString = DEFAULT@SECLEVEL=0\n";
    const int file = memfd_create("openssl.cnf", MFD_CLOEXEC);
    const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    OPENSSL_INIT_SETTINGS *settings = OPENSSL_INIT_new();
    OPENSSL_INIT_set_config_filename(settings, ("/proc/self/fd/" + std::to_string(file)).c_str());
    const bool loaded = written && OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, settings) == 1;
    OPENSSL_INIT_free(settings);
    close(file);
    return loaded;
}();

TEST(HttpTls, RefusesOldVersions) {
    ASSERT_TRUE(everything_is_allowed);
    TlsServer server({"-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"});
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const std::string ca = server.certificate();
    owner.settings.ca_file = slice(ca);
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    const std::string answer = response(200, "sealed");
    ASSERT_EQ(write(server.input, answer.data(), answer.size()), static_cast<ssize_t>(answer.size()));
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
