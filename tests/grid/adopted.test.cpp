// SPDX-License-Identifier: MIT
// Connections that the server adopts after their handshake, which another program has done.
#include "catch.hpp"
#include "grid/chunk_client.hpp"
#include "grid/program.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/protocol/names.hpp>
#include <nbd/server.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <sys/time.h>

using namespace grid;
using proto::error_value;

namespace {

constexpr std::size_t mib = 1 << 20;

/// What the observer was told.
struct journal {
    void add(std::string line)
    {
        const std::lock_guard lock{mutex};
        lines.push_back(std::move(line));
    }
    [[nodiscard]] std::vector<std::string> read()
    {
        const std::lock_guard lock{mutex};
        return lines;
    }
    std::mutex mutex;
    std::vector<std::string> lines;
};
struct keeps_journal {
    journal* to = nullptr;
    void at_connect(const nbd::client&) { to->add("connected"); }
    void at_option(const nbd::client&, const proto::option_header&) { to->add("an option"); }
    void at_option_error(const nbd::client&, const proto::option_header& o, const nbd::failure& why)
    {
        to->add(std::string{proto::name_of(o.option)} + " refused: " + why.message());
    }
    void at_export_opened(const nbd::client& who, std::string_view name, const proto::export_terms&)
    {
        to->add("opened " + std::string{name} + " as " + who.export_name);
    }
    void at_disconnect(const nbd::client&, std::error_code why)
    {
        to->add(why ? "left: " + why.message() : "left");
    }
    void at_accept_error(std::error_code why) { to->add("refused: " + why.message()); }
};

/// Its `open` and its calls are awaited. Clients of the export "broken" cannot open it.
class awaited_disk {
public:
    using executor_type = boost::asio::io_context::executor_type;
    template <class T>
    using task = boost::asio::awaitable<T, executor_type>;

    class view {
    public:
        static constexpr auto concurrency = nbd::concurrency::serialize_client;

        explicit view(bytes& all) : all_{&all} {}
        [[nodiscard]] std::uint64_t size() const { return all_->size(); }
        task<void> read(std::uint64_t offset, std::span<std::byte> to)
        {
            std::copy_n(all_->begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
            co_return;
        }
        task<void> write(std::uint64_t offset, std::span<const std::byte> from)
        {
            std::copy(from.begin(), from.end(),
                      all_->begin() + static_cast<std::ptrdiff_t>(offset));
            co_return;
        }

    private:
        bytes* all_;
    };

    explicit awaited_disk(std::size_t size) : all_{std::make_shared<bytes>(size)} {}
    task<view> open(const nbd::client& who, nbd::open_purpose why)
    {
        co_await boost::asio::post(boost::asio::use_awaitable_t<executor_type>{});
        if (who.export_name == "broken" || why != nbd::open_purpose::transmission)
            throw std::system_error{std::make_error_code(std::errc::io_error)};
        co_return view{*all_};
    }

private:
    std::shared_ptr<bytes> all_;
};

/// A server, and the context that on_executor needs.
template <class Backend, class Policy>
struct place {
    using backend = Backend;
    using server_type = nbd::server<nbd::unix_transport, Backend, Policy, keeps_journal>;
    using options = typename server_type::options;

    explicit place(bool admits = true) : server{made_of(admits)}
    {
        server.exports().add("disk", Backend{mib});
        server.exports().add("secret", Backend{mib}, {.tls_only = true});
        server.start_without_listening();
    }
    ~place() { end(); }
    /// Afterwards, the journal is complete.
    void end()
    {
        server.stop();
        server.wait();
    }
    [[nodiscard]] options made_of(bool admits)
    {
        const auto policy = [&] {
            if constexpr (std::is_same_v<Policy, nbd::on_executor<>>)
                return Policy{program.context.get_executor()};
            else
                return Policy{};
        };
        return {.listen = {.path = "/not used"},
                .policy = policy(),
                .observer = {&told},
                .admit = [admits](const nbd::unix_peer&) { return admits; }};
    }

    /// What `established::opened` was called with.
    struct result {
        std::error_code why;
        proto::export_terms terms;
    };
    /// A connection that the server serves.
    struct adopted {
        raw_client client;
        std::future<result> opened;

        [[nodiscard]] result wait()
        {
            if (opened.wait_for(std::chrono::seconds{20}) != std::future_status::ready)
                throw std::runtime_error{"the server does not open the export"};
            return opened.get();
        }
    };
    [[nodiscard]] static std::array<int, 2> pair()
    {
        std::array<int, 2> ends{};
        if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0)
            throw std::runtime_error{"no socketpair"};
        const ::timeval patience{.tv_sec = 20, .tv_usec = 0};
        ::setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        return ends;
    }
    [[nodiscard]] adopted adopt(nbd::established begun)
    {
        const auto ends = pair();
        const auto promise = std::make_shared<std::promise<result>>();
        begun.opened = [promise](std::error_code why, const proto::export_terms& terms) {
            promise->set_value({why, terms});
        };
        adopted made{raw_client{ends[0]}, promise->get_future()};
        server.adopt(ends[1], std::move(begun));
        return made;
    }

    journal told;
    grid::program program;
    server_type server;
};

using lines = std::vector<std::string>;
using blocking = place<nbd::mem_backend, nbd::per_client_threads>;

}  // namespace

#define ALL_PLACES                                                                                 \
    blocking, (place<nbd::mem_backend, nbd::strand_pool>),                                         \
        (place<awaited_disk, nbd::per_client_threads>), (place<awaited_disk, nbd::on_executor<>>)

TEMPLATE_TEST_CASE("adopted: a connection past its handshake is served without one", "", ALL_PLACES)
{
    TestType p;
    auto a = p.adopt({.export_name = "disk"});
    const auto [why, terms] = a.wait();
    CHECK_FALSE(why);
    CHECK(terms.size == mib);
    CHECK(terms.blocks == nbd::block_sizes{});
    auto handshaking = p.pair();
    p.server.adopt(handshaking[1]);
    raw_client other{handshaking[0]};
    if constexpr (std::is_same_v<typename TestType::backend, nbd::mem_backend>)
        CHECK(other.go("disk").flags == terms.flags);

    const auto data = pattern(5000, 1);
    CHECK(a.client.write(512, data) == error_value::none);
    CHECK(a.client.read(512, data.size()) == data);
    CHECK(a.client.read(mib, 512) == std::nullopt);
    CHECK(p.server.connections().front().export_name == "disk");
    a.client.disconnect();
    CHECK(a.client.closed(0x10000));
    other.close();
    p.end();
    const auto all = p.told.read();
    CHECK(std::vector(all.begin(), all.begin() + 2) == lines{"connected", "opened disk as disk"});
}

TEMPLATE_TEST_CASE("adopted: replies have the style that was negotiated", "", ALL_PLACES)
{
    using style = proto::reply_style;
    TestType p;
    const auto data = pattern(3000, 2);
    for (const auto s : {style::structured, style::extended}) {
        nbd::established begun{.structured_replies = s == style::structured,
                               .extended_headers = s == style::extended};
        constexpr bool has_contexts = std::is_same_v<typename TestType::backend, nbd::mem_backend>;
        if (has_contexts)
            begun.meta_contexts = {{"base:allocation", 42}};
        auto a = p.adopt(std::move(begun));
        CHECK(a.wait().terms.has(proto::transmission_flag::send_df));
        chunk_client c{std::move(a.client), s};
        CHECK(c.write(0, data) == error_value::none);
        CHECK(c.read(0, data.size()).data(0, data.size()) == data);
        if (has_contexts) {
            const auto status = c.status(mib / 2, 4096);
            REQUIRE(status.size() == 1);
            CHECK(status.front().id == 42);
        }
    }
}

TEMPLATE_TEST_CASE("adopted: a connection whose export does not open is closed", "", ALL_PLACES)
{
    TestType p;
    const auto refused = [&](nbd::established begun) {
        auto a = p.adopt(std::move(begun));
        const auto [why, terms] = a.wait();
        CHECK(terms.size == 0);
        CHECK(a.client.closed());
        return why;
    };
    CHECK(refused({.export_name = "none"}) == nbd::errc::unknown_export);
    CHECK(refused({.export_name = "secret"}) == nbd::errc::tls_required);
    CHECK(refused({.export_name = "disk", .meta_contexts = {{"x-none:", 1}}})
          == std::errc::invalid_argument);
    if constexpr (std::is_same_v<typename TestType::backend, awaited_disk>) {
        p.server.exports().add("broken", awaited_disk{mib});
        CHECK(refused({.export_name = "broken"}) == std::errc::io_error);
    }
    p.end();
    auto all = p.told.read();
    std::sort(all.begin(), all.end());
    const auto text = [](nbd::errc e) { return make_error_code(e).message(); };
    for (const auto e : {nbd::errc::unknown_export, nbd::errc::tls_required}) {
        CHECK(std::count(all.begin(), all.end(), "GO refused: " + text(e)) == 1);
        CHECK(std::count(all.begin(), all.end(), "left: " + text(e)) == 1);
    }
    CHECK(std::count(all.begin(), all.end(), "an option") == 0);
}

TEMPLATE_TEST_CASE("adopted: exports are looked up by name", "", ALL_PLACES)
{
    TestType p;
    using backend = typename TestType::backend;
    const auto found = std::make_shared<backend>(4096);
    p.server.exports().on_lookup([&](std::string_view name, const nbd::client& who) {
        return name == "monday" && who.export_name == name ? found : nullptr;
    });
    auto a = p.adopt({.export_name = "monday"});
    CHECK(a.wait().terms.size == 4096);
    CHECK(a.client.read(0, 4096) == bytes(4096));
    CHECK(p.adopt({.export_name = "tuesday"}).wait().why == nbd::errc::unknown_export);
    p.end();
}

TEST_CASE("adopted: what is no connected socket, or comes too late, is an error")
{
    blocking p;
    std::error_code error;
    p.server.adopt(-1, {.export_name = "disk"}, error);
    CHECK(error == std::errc::bad_file_descriptor);
    CHECK_THROWS_AS(p.server.adopt(-1, {.export_name = "disk"}), std::system_error);
    p.end();
    const auto ends = p.pair();
    raw_client client{ends[0]};
    p.server.adopt(ends[1], {.export_name = "disk"}, error);
    CHECK(error == nbd::errc::not_running);
    CHECK(client.closed());
}

TEST_CASE("adopted: a connection that the program does not admit gets no answer")
{
    blocking p{false};
    auto a = p.adopt({.export_name = "disk"});
    CHECK(a.client.closed());
    CHECK_THROWS_AS(a.wait(), std::future_error);  // the function was destroyed
    p.end();
    CHECK(p.told.read()
          == lines{"refused: " + make_error_code(nbd::errc::admission_refused).message()});
}

TEST_CASE("adopted: an exception of `opened` closes the connection")
{
    blocking p;
    const auto ends = p.pair();
    raw_client client{ends[0]};
    p.server.adopt(ends[1], {.export_name = "disk", .opened = [](auto, const auto&) {
                                 throw std::system_error{
                                     std::make_error_code(std::errc::device_or_resource_busy)};
                             }});
    CHECK(client.closed());
    p.end();
    CHECK(p.told.read().back()
          == "left: " + std::make_error_code(std::errc::device_or_resource_busy).message());
}
