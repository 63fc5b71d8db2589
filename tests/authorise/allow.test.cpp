// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/authorise/allow.hpp>
#include <nbd/transport/tcp_transport.hpp>
#include <nbd/transport/unix_transport.hpp>

#include <boost/asio/ip/tcp.hpp>

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace allow = nbd::allow;
using nbd::access_rule;
using nbd::client;
using nbd::permission;

client at(const std::string& address, std::uint16_t port = 40'000)
{
    const nbd::tcp_peer peer{{boost::asio::ip::make_address(address), port}};
    client who{.id = 1, .peer = peer.text()};
    peer.describe(who);
    return who;
}
client of_process(::uid_t user, ::gid_t group)
{
    const nbd::unix_peer peer{4711, user, group};
    client who{.id = 2, .peer = peer.text()};
    peer.describe(who);
    return who;
}
client with_key(const std::string& identity)
{
    auto who = at("192.0.2.1");
    who.tls = nbd::tls_info{.version = "TLSv1.3", .cipher = "x", .psk_identity = identity};
    return who;
}
const std::string digits(64, 'a');
client with_certificate(const std::string& subject)
{
    auto who = at("192.0.2.1");
    who.tls = nbd::tls_info{.version = "TLSv1.3",
                            .cipher = "x",
                            .subject = subject,
                            .names = {"DNS:a.example", "IP:10.0.0.1"},
                            .fingerprint = digits};
    return who;
}
client asks_for(const std::string& name)
{
    auto who = at("192.0.2.1");
    who.export_name = name;
    return who;
}

bool lets_in(const access_rule& rule, const client& who)
{
    return rule(who).allowed == permission::full;
}
std::string error_of(const std::function<access_rule()>& make)
{
    try {
        make();
    } catch (const std::invalid_argument& e) {
        return e.what();
    }
    return "none";
}

}  // namespace

TEST_CASE("allow: what the peers of the transports tell")
{
    const auto tcp = at("::ffff:192.0.2.1", 4711);
    CHECK(tcp.transport == "tcp");
    CHECK(tcp.address == nbd::ip_address::v4({192, 0, 2, 1}));
    CHECK(tcp.port == 4711);
    CHECK_FALSE(tcp.process);
    CHECK(at("::1").address->bytes[15] == 1);

    const auto process = of_process(1000, 100);
    CHECK(process.transport == "unix");
    REQUIRE(process.process);
    CHECK(process.process->process == 4711);
    CHECK(process.process->user == 1000);
    CHECK(process.process->group == 100);
    CHECK_FALSE(process.address);

    client unknown;  // the system has not said who: it is not root
    nbd::unix_peer{}.describe(unknown);
    CHECK(unknown.transport == "unix");
    CHECK_FALSE(unknown.process);
    CHECK(nbd::unix_peer{}.text() == "unix");
}

TEST_CASE("allow: addresses")
{
    const auto rule = allow::address("10.0.0.0/8", std::vector<std::string>{"::1", "192.0.2.1"});
    CHECK(lets_in(rule, at("10.1.2.3")));
    CHECK(lets_in(rule, at("::ffff:10.1.2.3")));
    CHECK(lets_in(rule, at("::1")));
    CHECK(lets_in(rule, at("192.0.2.1")));
    CHECK_FALSE(lets_in(rule, at("192.0.2.10")));
    CHECK_FALSE(lets_in(rule, at("::2")));
    CHECK_FALSE(lets_in(rule, of_process(0, 0)));
    CHECK(rule(at("10.1.2.3")).reason == "address 10.0.0.0/8");
    CHECK(rule(at("::2")).reason == "not address 10.0.0.0/8, ::1, 192.0.2.1");
    CHECK((!rule)(at("::1")).reason == "address ::1");
    CHECK(lets_in(!rule, of_process(0, 0)));
    CHECK(error_of([] { return allow::address("::1", "nonsense"); }).find("\"nonsense\"")
          != std::string::npos);
    CHECK_FALSE(lets_in(allow::address(std::vector<std::string>{}), at("::1")));
    const auto many =
        allow::address("1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4", "5.5.5.5", "6.6.6.6", "7.7.7.7");
    CHECK(many(at("::1")).reason
          == "not address 1.1.1.1, 2.2.2.2, 3.3.3.3, 4.4.4.4, 5.5.5.5 and 2 more");
}

TEST_CASE("allow: users and groups")
{
    const auto rule = allow::user(0, std::vector<::uid_t>{1000, 1001});
    CHECK(lets_in(rule, of_process(0, 5)));
    CHECK(lets_in(rule, of_process(1001, 5)));
    CHECK_FALSE(lets_in(rule, of_process(5, 0)));
    CHECK_FALSE(lets_in(rule, at("127.0.0.1")));
    CHECK_FALSE(lets_in(rule, client{}));
    CHECK(rule(of_process(5, 0)).reason == "not user 0, 1000, 1001");
    CHECK(lets_in(allow::group(100), of_process(5, 100)));
    CHECK_FALSE(lets_in(allow::group(100), of_process(100, 5)));
    CHECK_FALSE(lets_in(allow::group(0), at("::1")));
}

TEST_CASE("allow: TLS, and who its user is")
{
    CHECK(lets_in(allow::tls(), with_key("alice")));
    CHECK_FALSE(lets_in(allow::tls(), at("::1")));

    const auto identities = allow::psk_identity("alice", "bob");
    CHECK(lets_in(identities, with_key("bob")));
    CHECK_FALSE(lets_in(identities, with_key("Bob")));
    CHECK_FALSE(lets_in(identities, with_key("")));
    CHECK_FALSE(lets_in(identities, at("::1")));
    CHECK(identities(with_key("eve")).reason == "not PSK identity alice, bob");

    const auto subjects = allow::subject("CN=backup,O=Example");
    CHECK(lets_in(subjects, with_certificate("CN=backup,O=Example")));
    CHECK_FALSE(lets_in(subjects, with_certificate("CN=backup")));
    CHECK_FALSE(lets_in(subjects, with_certificate("CN=backup,O=Example,C=US")));
    CHECK_FALSE(lets_in(subjects, with_certificate("")));
    CHECK_FALSE(lets_in(subjects, with_key("CN=backup,O=Example")));

    CHECK(lets_in(allow::alternative_name("IP:10.0.0.1"), with_certificate("")));
    CHECK_FALSE(lets_in(allow::alternative_name("DNS:b.example"), with_certificate("")));
    CHECK_FALSE(lets_in(allow::alternative_name("IP:10.0.0.1"), at("10.0.0.1")));

    std::string colons;
    for (int i = 0; i < 32; ++i)
        colons += i == 0 ? "AA" : ":AA";
    CHECK(lets_in(allow::fingerprint(digits), with_certificate("")));
    CHECK(lets_in(allow::fingerprint(colons), with_certificate("")));
    CHECK_FALSE(lets_in(allow::fingerprint(std::string(64, 'b')), with_certificate("")));
    CHECK_FALSE(lets_in(allow::fingerprint(digits), with_key("alice")));
}

TEST_CASE("allow: texts that no client can have are errors")
{
    CHECK(error_of([] { return allow::psk_identity(""); })
          == "nbd: expected a PSK identity, but "
             "got an empty text");
    CHECK(error_of([] { return allow::subject("CN=a", ""); }) != "none");
    CHECK(error_of([] { return allow::alternative_name(""); }) != "none");
    CHECK(error_of([] { return allow::transport(""); }) != "none");
    for (const std::string& bad :
         {std::string{}, digits + 'a', digits.substr(1), digits.substr(1) + 'g'})
        CHECK(error_of([&] { return allow::fingerprint(bad); }).find('"' + bad + '"')
              != std::string::npos);
}

TEST_CASE("allow: exports, transports, and reading only")
{
    const auto rule = allow::export_name("public", "");
    CHECK(lets_in(rule, asks_for("public")));
    CHECK(lets_in(rule, asks_for("")));
    CHECK_FALSE(lets_in(rule, asks_for("Public")));
    CHECK_FALSE(lets_in(allow::export_name("public"), asks_for("")));
    CHECK(lets_in(allow::transport("unix"), of_process(1, 1)));
    CHECK_FALSE(lets_in(allow::transport("unix"), at("::1")));
    CHECK_FALSE(lets_in(allow::transport("unix"), client{}));

    const auto reads = (allow::user(1) && allow::read_only()) || allow::user(2);
    CHECK(reads(of_process(1, 0)).allowed == permission::read_only);
    CHECK(reads(of_process(2, 0)).allowed == permission::full);
    CHECK(reads(of_process(3, 0)).allowed == permission::refused);
}
