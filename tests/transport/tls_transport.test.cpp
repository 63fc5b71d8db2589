// SPDX-License-Identifier: MIT
// Whole servers with TLS, and a raw client: STARTTLS, from well-formed to hostile. T01 to T18 are
// the cases of the same names in the project's list of faults.
#include "catch.hpp"
#include "grid/tls.hpp"
#include "tls/records.hpp"

#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/socket.h>

using namespace grid;
using nbd::errc;
using proto::command;
using proto::error_value;
using proto::option;
using proto::option_reply;

// Blocking sockets, asynchronous ones with offloaded calls, and asynchronous ones with awaited
// calls.
#define EVERY_PLACE grid::blocking_place, grid::offloading_place, grid::hosted_place

namespace {

/// Whether another client is served as ever.
template <class Place>
bool serves_others(const Place& place)
{
    const auto other = place.ready();
    return other->read(4096, 8192)
        == bytes(place.media.content.begin() + 4096, place.media.content.begin() + 12288);
}

bytes option_bytes(option o, const bytes& data = {})
{
    bytes all(proto::option_header_bytes);
    proto::writer{all}.put(proto::option_magic).put(o).put(static_cast<std::uint32_t>(data.size()));
    all.insert(all.end(), data.begin(), data.end());
    return all;
}

bytes set_meta_data(std::string_view name)
{
    bytes data(4 + name.size() + 4);
    proto::writer{data}
        .put(static_cast<std::uint32_t>(name.size()))
        .put_text(name)
        .put(std::uint32_t{0});
    return data;
}

}  // namespace

TEMPLATE_TEST_CASE("TLS: T01 without TLS, STARTTLS is refused", "", EVERY_PLACE)
{
    TestType place{{.mode = tls_mode::none}};
    auto client = place.plain();
    client.greet();
    CHECK(client.ask(option::starttls).back().type == option_reply::err_unsup);
    CHECK(client.ask(option::info, raw_client::info_data("secret")).back().type
          == option_reply::err_policy);
    CHECK(client.ask(option::list).size() == 2);
    CHECK(client.ask(option::go, raw_client::info_data("disk")).back().type == option_reply::ack);
    CHECK(client.read(0, 512));
}

TEMPLATE_TEST_CASE("TLS: T02 and T03 STARTTLS with data, and twice, is invalid", "", EVERY_PLACE)
{
    TestType place;
    auto client = place.client();
    client.greet();
    CHECK(client.ask(option::starttls, pattern(4)).back().type == option_reply::err_invalid);
    REQUIRE(client.ask_for_tls());
    REQUIRE(client.handshake());
    CHECK(client.ask(option::starttls).back().type == option_reply::err_invalid);
    CHECK(client.ask(option::starttls, pattern(4)).back().type == option_reply::err_invalid);
    CHECK(client.go_inside("disk") == option_reply::ack);
    CHECK(client.read(0, 512));
}

TEMPLATE_TEST_CASE("TLS: T04 plain bytes behind STARTTLS are never an option", "", EVERY_PLACE)
{
    TestType place{{.mode = tls_mode::selective}};
    auto client = place.plain();
    client.greet();
    auto both = option_bytes(option::starttls);
    const auto go = option_bytes(option::go, raw_client::info_data("disk"));
    both.insert(both.end(), go.begin(), go.end());
    client.send(both);
    CHECK(client.receive_answer().type == option_reply::ack);
    CHECK(client.closed());
    CHECK(place.media.departure().category() == nbd::tls::error_category());
    CHECK(place.media.opens == 0);
    CHECK(serves_others(place));
}

TEMPLATE_TEST_CASE("TLS: T05 nothing negotiated before TLS counts inside it", "", EVERY_PLACE)
{
    for (const auto style : {option::structured_reply, option::extended_headers}) {
        TestType place{{.mode = tls_mode::selective}};
        auto client = place.client();
        client.greet();
        CHECK(client.ask(style).back().type == option_reply::ack);
        CHECK(client.ask(option::set_meta_context, set_meta_data("disk")).back().type
              == option_reply::ack);
        CHECK(client.ask(option::info, raw_client::info_data("disk")).back().type
              == option_reply::ack);
        CHECK_FALSE(place.media.last);
        REQUIRE(client.ask_for_tls());
        REQUIRE(client.handshake());
        CHECK(client.ask(option::set_meta_context, set_meta_data("disk")).back().type
              == option_reply::err_invalid);
        CHECK(client.go_inside("disk") == option_reply::ack);
        CHECK(place.media.last);      // the export was opened again
        CHECK(client.read(0, 4096));  // a simple reply to a compact request
        CHECK(client.request(command::block_status, 0, 4096) == error_value::einval);
    }
}

TEMPLATE_TEST_CASE("TLS: T06 to T09 a server that forces TLS", "", EVERY_PLACE)
{
    TestType place;
    auto client = place.client();
    client.greet();
    const auto disk = raw_client::info_data("disk");
    CHECK(client.ask(option::list).back().type == option_reply::err_tls_reqd);
    CHECK(client.ask(option::info, disk).back().type == option_reply::err_tls_reqd);
    CHECK(client.ask(option::go, disk).back().type == option_reply::err_tls_reqd);
    CHECK(client.ask(option::set_meta_context, set_meta_data("disk")).back().type
          == option_reply::err_tls_reqd);
    CHECK(client.ask(static_cast<option>(4711), pattern(100'000)).back().type
          == option_reply::err_tls_reqd);
    CHECK(place.media.opens == 0);
    REQUIRE(client.ask_for_tls());
    REQUIRE(client.handshake());
    CHECK(client.ask(option::list).size() == 3);
    CHECK(client.go_inside("nowhere") == option_reply::err_unknown);
    CHECK(client.go_inside("secret") == option_reply::ack);  // T08
    CHECK(client.read(0, 512));

    auto old = place.plain();  // T07
    old.greet();
    old.send(option_bytes(option::export_name));
    CHECK(old.closed(1));
    CHECK(place.media.departure() == errc::tls_required);
    auto aborting = place.plain();  // T09
    aborting.greet();
    CHECK(aborting.ask(option::abort).back().type == option_reply::ack);
    CHECK(aborting.closed(1));
    CHECK_FALSE(place.media.departure(2));
}

TEMPLATE_TEST_CASE("TLS: T10 no ClientHello, or half of one", "", EVERY_PLACE)
{
    TestType place{{.limits = impatient()}};
    auto noise = place.client();
    noise.greet();
    REQUIRE(noise.ask_for_tls());
    noise.send_plainly(pattern(64));
    CHECK(noise.closed());
    CHECK(place.media.departure().category() == nbd::tls::error_category());

    auto silent = place.client();
    silent.greet();
    REQUIRE(silent.ask_for_tls());
    auto half = place.client();
    half.greet();
    REQUIRE(half.ask_for_tls());
    const auto hello = half.client_hello();
    half.send_plainly(std::span{hello}.first(hello.size() / 2));
    CHECK(silent.closed());
    CHECK(half.closed());
    CHECK(place.media.departure(3) == errc::handshake_timeout);
    CHECK(place.media.opens == 0);
    CHECK(serves_others(place));
}

TEMPLATE_TEST_CASE("TLS: T11 clients that are refused never reach the disk", "", EVERY_PLACE)
{
    using tls_test::identity;
    TestType place{{.verify_peer = true}};
    const identity stranger{{.name = "authority"}, nullptr};
    const identity forged{{.name = "client"}, &stranger};
    const identity expired{{.name = "client", .begins = -7200, .ends = -3600},
                           &place.pki.authority};
    std::size_t refused = 0;
    const auto refuses = [&](const client_settings& with, std::string_view why) {
        auto client = place.client(with);
        // With TLS 1.3 a client learns only from its first read that its certificate was refused.
        const bool enters = client.start_tls();
        CHECK((!enters || client.closed()));
        const auto told = place.media.departure(++refused).message();
        INFO(told);
        CHECK(told.find(why) != std::string::npos);
    };
    for (const int newest : {TLS1_2_VERSION, 0}) {
        refuses({.most_version = newest}, "peer did not return a certificate");
        refuses({.certificate = &forged, .most_version = newest}, "certificate of the client");
        refuses({.certificate = &expired, .most_version = newest}, "has expired");
    }
    refuses({.certificate = &place.pki.client,
             .least_version = TLS1_VERSION,
             .most_version = TLS1_1_VERSION},
            "unsupported protocol");
    CHECK(place.media.opens == 0);

    // The same client, after it was revoked and the credentials were loaded again.
    CHECK(place.ready({.certificate = &place.pki.client})->read(0, 512));
    place.pki.files.put("ca-crl.pem", place.pki.authority.revocation_pem(place.pki.client), 0644);
    CHECK_FALSE(place.credentials.reload());
    std::ignore = place.media.departure(++refused);
    refuses({.certificate = &place.pki.client}, "revoked");
    CHECK(place.media.opens == 1);
}

TEMPLATE_TEST_CASE("TLS: T11 CN not allowed: refused, and the backend is never opened", "",
                   EVERY_PLACE)
{
    using tls_test::identity;
    const std::string allowed = "CN=client,O=nbd\\, tests";
    TestType place{{.verify_peer = true, .authorise = nbd::allow::subject(allowed)}};
    const identity other{{.name = "other"}, &place.pki.authority};
    const auto refused = [&](tls_client client) {
        REQUIRE(client.start_tls());
        for (const auto* const name : {"disk", "secret"}) {
            const auto data = raw_client::info_data(name);
            CHECK(client.ask(option::info, data).back().type == option_reply::err_unknown);
            CHECK(client.ask(option::go, data).back().type == option_reply::err_unknown);
        }
        CHECK(client.ask(option::list).size() == 1);
    };
    refused(place.client({.certificate = &other}));
    CHECK(place.media.opens == 0);
    const auto client = place.ready({.certificate = &place.pki.client});
    CHECK(client->read(0, 512));
    CHECK(place.media.last->subject == allowed);
    CHECK(place.media.opens == 1);
}

TEMPLATE_TEST_CASE("TLS: T11 identities of keys, and clients without TLS, that are not allowed", "",
                   EVERY_PLACE)
{
    namespace allow = nbd::allow;
    TestType place{{.mode = tls_mode::selective,
                    .psk = true,
                    .authorise = (allow::psk_identity("alice") && !allow::export_name("secret"))
                        || (allow::psk_identity("bob") && allow::read_only())}};
    const client_settings alice{.psk_identity = "alice", .psk = tls_test::psk_of_alice};
    const client_settings bob{.psk_identity = "bob", .psk = tls_test::psk_of_bob};

    auto plain = place.plain();
    plain.greet();
    CHECK(plain.ask(option::list).size() == 1);
    const auto disk = raw_client::info_data("disk");
    const auto answer = plain.ask(option::go, disk).back();
    const auto absent = plain.ask(option::go, raw_client::info_data("none")).back();
    CHECK(answer.type == option_reply::err_tls_reqd);
    CHECK(absent.type == answer.type);
    CHECK(absent.data == answer.data);
    CHECK(place.media.opens == 0);

    const auto writer = place.ready(alice);
    CHECK(writer->write(0, pattern(512)) == error_value::none);
    const auto reader = place.ready(bob, "secret");
    CHECK(reader->read(0, 512));
    CHECK(reader->write(0, pattern(512)) == error_value::eperm);
    auto client = place.client(alice);
    REQUIRE(client.start_tls());
    CHECK(client.ask(option::list).size() == 2);
    CHECK(client.go_inside("secret") == option_reply::err_unknown);
    CHECK(place.media.opens == 2);
}

TEMPLATE_TEST_CASE("TLS: an identity with more than its share gives up a connection", "",
                   EVERY_PLACE)
{
    nbd::settings limits;
    limits.max_connections = 4;
    limits.places_per_identity = 2;  // places_per_peer is the default, since all are of one address
    TestType place{{.psk = true, .limits = limits}};
    const client_settings alice{.psk_identity = "alice", .psk = tls_test::psk_of_alice};
    const client_settings bob{.psk_identity = "bob", .psk = tls_test::psk_of_bob};
    std::vector<std::unique_ptr<tls_client>> greedy;
    for (int i = 0; i < 4; ++i)
        CHECK((greedy.emplace_back(place.ready(alice)))->read(0, 512));
    std::vector<std::unique_ptr<tls_client>> others;
    for (std::size_t i = 1; i <= 2; ++i) {
        CHECK((others.emplace_back(place.ready(bob)))->read(0, 512));  // waits for a place
        CHECK(place.media.departure(i) == errc::evicted);
        CHECK(greedy[4 - i]->closed());
    }
    CHECK(greedy[0]->read(0, 512));
    CHECK(greedy[1]->read(0, 512));
}

TEMPLATE_TEST_CASE("TLS: T12 the connection closes in the TLS handshake", "", EVERY_PLACE)
{
    TestType place{{.verify_peer = true}};
    std::size_t left = 0;
    for (const double part : {0.0, 0.01, 0.5, 1.0}) {
        auto client = place.client();
        client.greet();
        REQUIRE(client.ask_for_tls());
        const auto hello = client.client_hello();
        client.send_plainly(
            std::span{hello}.first(static_cast<std::size_t>(part * double(hello.size()))));
        if (part == 1.0) {
            bytes some(8);
            REQUIRE(::recv(client.fd(), some.data(), some.size(), 0) > 0);  // the server's answer
        }
        part == 0.5 ? client.reset() : client.close();
        const auto why = place.media.departure(++left);
        CHECK((why == errc::cut_short || why == std::errc::connection_reset));
    }
    CHECK(place.media.opens == 0);
}

TEMPLATE_TEST_CASE("TLS: T13 the connection ends without the end of TLS", "", EVERY_PLACE)
{
    TestType place;
    std::size_t left = 0;
    const auto ends = [&](tls_client& client) {
        ::shutdown(client.fd(), SHUT_WR);
        CHECK(place.media.departure(++left) == errc::cut_short);
        CHECK(client.closed());
    };
    auto haggling = place.client();
    REQUIRE(haggling.start_tls());
    CHECK(haggling.ask(option::list).size() == 3);
    ends(haggling);

    ends(*place.ready());  // idle

    const auto writing = place.ready();  // in a payload, large and small
    const auto before = place.media.content;
    for (const std::size_t length : {4096U, 1U << 20}) {
        const auto client = place.ready();
        bytes message;
        raw_client::append(message, {.command = command::write, .cookie = 1, .length = length},
                           pattern(length / 2, 77));
        client->send(message);
        ends(*client);
    }
    // Memory that is lent is received into, as without TLS; this disk lends none.
    CHECK(place.media.content == before);

    const auto reading = place.ready();  // in a reply
    reading->send_request({.cookie = 1, .length = 4 << 20});
    std::ignore = reading->receive(1000);
    reading->reset();
    CHECK(place.media.departure(++left));

    const auto ending = place.ready();  // with the end of TLS, earlier requests are answered
    bytes requests;
    for (std::uint64_t i = 0; i < 4; ++i)
        raw_client::append(requests, {.cookie = i, .length = 512});
    ending->send(requests);
    ending->close_notify();
    for (std::uint64_t i = 0; i < 4; ++i) {
        CHECK(ending->receive_reply().cookie < 4);
        CHECK(ending->receive(512).size() == 512);
    }
    CHECK(ending->closed(1));
    CHECK(ending->was_told_of_end());
    CHECK_FALSE(place.media.departure(++left));
    CHECK(writing->read(0, 512));
}

TEMPLATE_TEST_CASE("TLS: T14 renegotiation is refused, and floods end", "", EVERY_PLACE)
{
    TestType place;
    const auto older = place.ready({.most_version = TLS1_2_VERSION});
    ::SSL_renegotiate(older->ssl());
    older->pump([&] { return ::SSL_do_handshake(older->ssl()); });
    CHECK(serves_others(place));

    const auto newer = place.ready();
    ::SSL_key_update(newer->ssl(), SSL_KEY_UPDATE_REQUESTED);  // one is fine
    CHECK(newer->read(0, 512));
    bool cut = false;
    for (int i = 0; i < 5000 && !cut; ++i) {
        ::SSL_key_update(newer->ssl(), SSL_KEY_UPDATE_NOT_REQUESTED);
        cut = newer->pump([&] { return ::SSL_do_handshake(newer->ssl()); }) != 1;
    }
    CHECK(newer->closed());
    CHECK(serves_others(place));
}

TEMPLATE_TEST_CASE("TLS: T14 records without data: a few are ignored, and a flood ends", "",
                   EVERY_PLACE)
{
    TestType place;
    std::size_t left = 0;
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
        auto client = place.client({.least_version = version, .most_version = version});
        tls_test::record_sealer sealer{client};
        REQUIRE(client.start_tls());
        const auto send_after_empty_ones = [&](const bytes& data) {
            for (int i = 0; i < 20; ++i)
                client.send_plainly(sealer.seal({}));
            client.send_plainly(sealer.seal(data));
        };
        send_after_empty_ones(option_bytes(option::go, raw_client::info_data("disk")));
        CHECK(client.receive_answer().type == option_reply::info);
        while (client.receive_answer().type != option_reply::ack) {
        }
        bytes request;
        raw_client::append(request, {.cookie = 1, .length = 512});
        send_after_empty_ones(request);
        CHECK(client.receive_reply().error == error_value::none);
        std::ignore = client.receive(512);

        bytes hundred;
        bool open = true;
        for (int i = 0; i < 1000 && open; ++i) {
            hundred.clear();
            for (int k = 0; k < 100; ++k) {
                const auto empty = sealer.seal({});
                hundred.insert(hundred.end(), empty.begin(), empty.end());
            }
            open = client.send_plainly(hundred);
        }
        CHECK(client.closed());
        const auto why = place.media.departure(++left);
        CHECK(why.message().find("record too small") != std::string::npos);
    }
    CHECK(serves_others(place));
}

TEMPLATE_TEST_CASE("TLS: T15 and T17 data in records of every size", "", EVERY_PLACE,
                   grid::pool_place, grid::private_place)
{
    TestType place;
    const auto client = place.ready();
    auto& shadow = place.media.content;
    for (const std::size_t length : {1U, 511U, 4096U, 16368U, 16384U, 16385U, 65536U, 65537U,
                                     131072U, 1U << 20, (3U << 20) + 7}) {
        const auto data = pattern(length, static_cast<unsigned>(length));
        REQUIRE(client->write(17, data) == error_value::none);
        CHECK(std::equal(data.begin(), data.end(), shadow.begin() + 17));
        CHECK(client->read(17, length) == data);
    }
    // Many requests in one record, and many replies.
    bytes batch;
    for (std::uint64_t i = 0; i < 300; ++i)
        raw_client::append(batch, {.cookie = i, .offset = 0, .length = 100 + i});
    client->send(batch);
    for (std::uint64_t i = 0; i < 300; ++i) {
        const auto cookie = client->receive_reply().cookie;
        const auto data = client->receive(100 + static_cast<std::size_t>(cookie));
        REQUIRE(std::equal(data.begin(), data.end(), shadow.begin()));
    }
    // A refused WRITE, whose payload crosses records, keeps the stream in step (T17).
    CHECK(client->write(shadow.size() - 10, pattern(100'000)) == error_value::enospc);
    CHECK(client->read(shadow.size(), 1) == std::nullopt);
    CHECK(client->read(0, 512));

    // One byte at a time.
    tls_client slow = place.client();
    slow.piece = 1;
    REQUIRE(slow.start_tls());
    REQUIRE(slow.go_inside("disk") == option_reply::ack);
    const auto data = pattern(5000, 5);
    CHECK(slow.write(99, data) == error_value::none);
    CHECK(slow.read(99, 5000) == data);
    slow.disconnect();
    CHECK(slow.closed(1));
    CHECK(slow.was_told_of_end());  // P61: TLS is shut down
}

TEMPLATE_TEST_CASE("TLS: T16 an export that needs TLS", "", EVERY_PLACE)
{
    TestType place{{.mode = tls_mode::selective}};
    auto client = place.client();
    client.greet();
    const auto listed = client.ask(option::list);
    REQUIRE(listed.size() == 2);
    CHECK(listed[0].data.size() == 4 + 4 + 4);  // only "disk"
    for (const auto o : {option::info, option::go}) {
        CHECK(client.ask(o, raw_client::info_data("secret")).back().type
              == option_reply::err_tls_reqd);
        CHECK(client.ask(o, raw_client::info_data("nowhere")).back().type
              == option_reply::err_tls_reqd);
    }
    CHECK(place.media.opens == 0);
    auto old = place.plain();
    old.greet();
    old.send_option(option::export_name, std::as_bytes(std::span{"secret", 6}));
    CHECK(old.closed(1));
    REQUIRE(client.ask_for_tls());
    REQUIRE(client.handshake());
    CHECK(client.ask(option::list).size() == 3);
    CHECK(client.go_inside("secret") == option_reply::ack);
    CHECK(client.read(0, 512));

    auto plain = place.plain();
    CHECK(plain.go("disk").size == place.media.content.size());
    CHECK(plain.read(0, 512));
    CHECK_FALSE(place.media.last);
}

TEMPLATE_TEST_CASE("TLS: T18 many handshakes do not stop another client", "", EVERY_PLACE)
{
    TestType place;
    const auto steady = place.ready();
    auto storm = std::async(std::launch::async, [&] {
        int entered = 0;
        for (int i = 0; i < 40; ++i)
            entered += place.client().start_tls() ? 1 : 0;
        return entered;
    });
    int served = 0;
    do
        served += steady->read(0, 4096) ? 1 : 0;
    while (storm.wait_for(std::chrono::seconds{0}) != std::future_status::ready);
    CHECK(storm.get() == 40);
    CHECK(served > 0);
}

TEMPLATE_TEST_CASE("TLS: what the server knows of a client", "", EVERY_PLACE)
{
    TestType place{{.verify_peer = true}};
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
        const auto client = place.ready({.authority = &place.pki.authority,
                                         .certificate = &place.pki.client,
                                         .least_version = version,
                                         .most_version = version});
        REQUIRE(place.media.last);
        const auto& info = *place.media.last;
        CHECK(info.version == (version == TLS1_2_VERSION ? "TLSv1.2" : "TLSv1.3"));
        CHECK(info.cipher == ::SSL_get_cipher_name(client->ssl()));
        CHECK(info.subject == "CN=client,O=nbd\\, tests");
        CHECK(info.names
              == std::vector<std::string>{"DNS:client.example", "email:c@example.org",
                                          "IP:10.0.0.1", "IP:::1", "URI:urn:x:y"});
        CHECK(info.fingerprint.size() == 64);
        CHECK(info.psk_identity.empty());
        CHECK(::SSL_session_reused(client->ssl()) == 0);
    }
}

TEMPLATE_TEST_CASE("TLS: pre-shared keys", "", EVERY_PLACE)
{
    for (const bool certificates : {false, true}) {
        TestType place{{.verify_peer = certificates, .certificates = certificates, .psk = true}};
        std::size_t refused = 0;
        for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
            client_settings bob{.least_version = version,
                                .most_version = version,
                                .psk_identity = "bob",
                                .psk = tls_test::psk_of_bob};
            const auto client = place.ready(bob);
            CHECK(client->read(0, 512));
            REQUIRE(place.media.last);
            CHECK(place.media.last->psk_identity == "bob");
            CHECK(place.media.last->subject.empty());
            client->disconnect();
            std::ignore = place.media.departure(++refused);

            const auto opens = place.media.opens.load();
            auto wrong = bob;
            wrong.psk = tls_test::psk_of_alice;
            auto unknown = bob;
            unknown.psk_identity = "mallory";
            for (const auto& with :
                 {wrong, unknown,
                  client_settings{.least_version = version, .most_version = version}}) {
                auto other = place.client(with);
                CHECK((!other.start_tls() || other.closed()));
                CHECK(place.media.departure(++refused).category() == nbd::tls::error_category());
            }
            CHECK(place.media.opens == opens);
        }
        // A client with a certificate needs no key.
        if (certificates)
            CHECK(place.ready({.certificate = &place.pki.client})->read(0, 512));
    }
}

TEMPLATE_TEST_CASE("TLS: credentials that are loaded again are for new clients", "", EVERY_PLACE)
{
    TestType place;
    const auto before = place.ready({.authority = &place.pki.authority});
    const tls_test::identity next{{.name = "next"}, &place.pki.authority};
    const auto shown = [](tls_client& client) {
        const nbd::tls::owned<::X509, &::X509_free> certificate{
            ::SSL_get1_peer_certificate(client.ssl())};
        return nbd::tls::subject_of(*certificate);
    };
    place.pki.install(next);
    CHECK(shown(*place.ready()) == "CN=server,O=nbd\\, tests");
    CHECK_FALSE(place.credentials.reload());
    CHECK(shown(*place.ready({.authority = &place.pki.authority})) == "CN=next,O=nbd\\, tests");
    CHECK(before->read(0, 512));

    place.pki.files.put("server-key.pem", "nonsense");
    CHECK(place.credentials.reload());
    CHECK(shown(*place.ready()) == "CN=next,O=nbd\\, tests");
}

TEST_CASE("TLS: files with several certificates")
{
    using tls_test::identity;
    blocking_place place{{.verify_peer = true}};
    const auto& files = place.pki.files;
    const auto& authority = place.pki.authority;
    SECTION("the server sends its intermediate certificates")
    {
        const identity first{{.name = "first", .is_authority = true}, &authority};
        const identity second{{.name = "second", .is_authority = true}, &first};
        const identity leaf{{.name = "leaf"}, &second};
        place.pki.install(leaf);
        REQUIRE_FALSE(place.credentials.reload());
        CHECK_FALSE(
            place.client({.authority = &authority, .certificate = &place.pki.client}).start_tls());
        files.put("server-cert.pem",
                  leaf.certificate_pem() + second.certificate_pem() + first.certificate_pem());
        REQUIRE_FALSE(place.credentials.reload());
        CHECK(
            place.ready({.authority = &authority, .certificate = &place.pki.client})->read(0, 512));
    }
    SECTION("clients of several authorities, which revoke certificates")
    {
        const identity other{{.name = "other authority"}, nullptr};
        const identity its_client{{.name = "its client"}, &other};
        const identity revoked{{.name = "revoked"}, &other};
        files.put("ca-cert.pem", authority.certificate_pem() + other.certificate_pem());
        REQUIRE_FALSE(place.credentials.reload());
        for (const identity* const client :
             {&std::as_const(place.pki.client), &its_client, &revoked})
            CHECK(place.ready({.certificate = client})->read(0, 512));
        files.put("ca-crl.pem",
                  authority.revocation_pem(place.pki.server) + other.revocation_pem(revoked));
        REQUIRE_FALSE(place.credentials.reload());
        for (const identity* const client : {&std::as_const(place.pki.client), &its_client})
            CHECK(place.ready({.certificate = client})->read(0, 512));
        auto refused = place.client({.certificate = &revoked});
        CHECK((!refused.start_tls() || refused.closed()));
    }
}

TEMPLATE_TEST_CASE("TLS: the server stops in every phase", "", EVERY_PLACE)
{
    TestType place{{.limits = impatient()}};
    auto greeted = place.client();
    greeted.greet();
    auto starting = place.client();
    starting.greet();
    REQUIRE(starting.ask_for_tls());
    auto haggling = place.client();
    REQUIRE(haggling.start_tls());
    const auto idle = place.ready();
    const auto reader = place.ready();
    bytes requests;
    for (std::uint64_t i = 0; i < 16; ++i)
        raw_client::append(requests, {.cookie = i, .length = 2 << 20});
    reader->send(requests);  // and does not read the replies
    std::ignore = reader->receive(100);
    const auto begun = std::chrono::steady_clock::now();
    place.server->stop();
    if constexpr (!TestType::hosted)
        place.server->wait();
    const auto last = place.media.departure(5);
    CHECK((last == errc::server_stopped || last == errc::send_timeout));
    CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds{15});
    for (auto* const client : {&greeted, &starting, &haggling, idle.get()})
        CHECK(client->closed());
}

TEMPLATE_TEST_CASE("TLS: a server that stops answers what it has received", "", EVERY_PLACE)
{
    TestType place;
    const auto client = place.ready();
    CHECK(client->read(0, 512));
    bytes requests;
    for (std::uint64_t i = 0; i < 8; ++i)
        raw_client::append(requests, {.cookie = i, .length = 4096});
    client->send(requests);
    CHECK(client->receive_reply().error == error_value::none);  // so all have arrived
    place.server->stop();
    std::ignore = client->receive(4096);
    for (int i = 1; i < 8; ++i) {
        if (client->receive_reply().error == error_value::none)
            std::ignore = client->receive(4096);
    }
    CHECK(client->closed(1));
    CHECK(client->was_told_of_end());
    CHECK(place.media.departure() == errc::server_stopped);
}

TEST_CASE("TLS: a server without credentials does not start")
{
    nbd::server<nbd::tls_transport<nbd::tcp_transport>, nbd::mem_backend, nbd::per_client_threads>
        server{{.over = {.port = 0}}};
    std::error_code error;
    server.start(error);
    CHECK(error == errc::no_tls_credentials);
}

TEST_CASE("TLS: the URI of a server with TLS has the scheme of TLS")
{
    const nbd::tls_transport<nbd::tcp_transport> tcp{{.over = {}}};
    CHECK(tcp.uri({boost::asio::ip::make_address("127.0.0.1"), 10809}, "disk")
          == "nbds://127.0.0.1:10809/disk");
    const nbd::tls_transport<nbd::unix_transport> local{
        {.over = {.path = "/tmp/x"}, .mode = tls_mode::selective}};
    CHECK(local.uri({"/tmp/x"}, "disk") == "nbds+unix:///disk?socket=/tmp/x");
    const nbd::tls_transport<nbd::unix_transport> off{
        {.over = {.path = "/tmp/x"}, .mode = tls_mode::none}};
    CHECK(off.uri({"/tmp/x"}, "disk") == "nbd+unix:///disk?socket=/tmp/x");
    CHECK(off.where() == "/tmp/x");
}
