// SPDX-License-Identifier: MIT
// Backends with callbacks, and awaited ones, whose arguments must live until the call has
// completed.
#include "catch.hpp"
#include "grid/chunk_client.hpp"
#include "grid/server_fixture.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace grid;
using proto::command;
using proto::error_value;
using style = proto::reply_style;
namespace cf = proto::command_flag;
using nbd::completion;

constexpr std::uint64_t mib = 1 << 20;

/// The thread on which a store completes.
enum class where { inside, elsewhere, both };

/// A store that all copies of a backend share.
struct store {
    std::mutex mutex;
    std::condition_variable changed;
    bytes content = pattern(mib);
    bool held = false;  ///< reads wait
    int inside = 0;
    int most_inside = 0;
    int calls = 0;
    int flushes = 0;
    int durable_writes = 0;
    where place = where::both;
    boost::asio::thread_pool threads{2};

    void hold(bool on)
    {
        const std::lock_guard lock{mutex};
        held = on;
        changed.notify_all();
    }
    template <class Condition>
    [[nodiscard]] bool await(Condition condition)
    {
        std::unique_lock lock{mutex};
        return changed.wait_for(lock, std::chrono::seconds{20}, condition);
    }
    /// Does the work and completes, on the calling thread or another one.
    template <class Work>
    void run(Work work, completion done)
    {
        bool here = place == where::inside;
        {
            const std::lock_guard lock{mutex};
            most_inside = std::max(most_inside, ++inside);
            here |= place == where::both && ++calls % 2 == 0;
            changed.notify_all();
        }
        auto all = [this, work = std::move(work), done = std::move(done)]() mutable {
            {
                std::unique_lock lock{mutex};
                changed.wait_for(lock, std::chrono::seconds{20}, [&] { return !held; });
                work();
                --inside;
            }
            done();
        };
        if (here)
            all();
        else
            boost::asio::post(threads, std::move(all));
    }
};

/// Takes its arguments by reference, and reads them when it does the work.
template <nbd::concurrency Concurrency>
class calling_back {
public:
    static constexpr nbd::concurrency concurrency = Concurrency;
    using offset_type = const std::uint64_t&;

    explicit calling_back(std::shared_ptr<store> s) : store_{std::move(s)} {}
    std::uint64_t size() const { return store_->content.size(); }
    void async_read(offset_type offset, const std::span<std::byte>& to, completion done)
    {
        store_->run([&s = *store_, &offset,
                     &to] { std::copy_n(s.content.begin() + at(offset), to.size(), to.begin()); },
                    std::move(done));
    }
    void async_write(offset_type offset, const std::span<const std::byte>& from,
                     const nbd::write_flags& flags, completion done)
    {
        store_->run(
            [&s = *store_, &offset, &from, &flags] {
                std::copy(from.begin(), from.end(), s.content.begin() + at(offset));
                s.durable_writes += flags.fua;
            },
            std::move(done));
    }
    void async_flush(completion done)
    {
        store_->run([&s = *store_] { ++s.flushes; }, std::move(done));
    }
    void async_trim(offset_type offset, offset_type length, completion done)
    {
        zero(offset, length, std::move(done));
    }
    void async_write_zeroes(offset_type offset, offset_type length, const nbd::zero_flags& flags,
                            completion done)
    {
        if (flags.no_hole)
            return done(std::make_error_code(std::errc::not_supported));
        zero(offset, length, std::move(done));
    }
    void async_cache(std::uint64_t, std::uint64_t, completion done)
    {
        done(nbd::failure{std::make_error_code(std::errc::io_error), "no cache today"});
    }
    void async_extents(offset_type, offset_type length, nbd::extent_list& to, completion done)
    {
        store_->run(
            [&length, &to] {
                to.add(length / 2, 0);
                to.add(length, 0);
            },
            std::move(done));
    }

private:
    static std::ptrdiff_t at(std::uint64_t offset) { return static_cast<std::ptrdiff_t>(offset); }
    void zero(offset_type offset, offset_type length, completion done)
    {
        store_->run(
            [&s = *store_, &offset, &length] {
                std::fill_n(s.content.begin() + at(offset), length, std::byte{0});
            },
            std::move(done));
    }
    std::shared_ptr<store> store_;
};
using together = calling_back<nbd::concurrency::parallel>;
using one_at_a_time = calling_back<nbd::concurrency::serialize_all>;

/// The same, awaited.
class awaited_by_reference {
public:
    static constexpr auto concurrency = nbd::concurrency::parallel;
    using executor = boost::asio::io_context::executor_type;
    template <class T>
    using awaitable = boost::asio::awaitable<T, executor>;

    explicit awaited_by_reference(std::shared_ptr<store> s) : store_{std::move(s)} {}
    std::uint64_t size() const { return store_->content.size(); }
    awaitable<void> read(const std::uint64_t& offset, const std::span<std::byte>& to)
    {
        co_await away();
        const std::lock_guard lock{store_->mutex};
        std::copy_n(store_->content.begin() + static_cast<std::ptrdiff_t>(offset), to.size(),
                    to.begin());
    }
    awaitable<void> write(const std::uint64_t& offset, const std::span<const std::byte>& from,
                          const nbd::write_flags& flags)
    {
        co_await away();
        const std::lock_guard lock{store_->mutex};
        std::copy(from.begin(), from.end(),
                  store_->content.begin() + static_cast<std::ptrdiff_t>(offset));
        store_->durable_writes += flags.fua;
    }
    awaitable<void> write_zeroes(const std::uint64_t& offset, const std::uint64_t& length,
                                 const nbd::zero_flags& flags)
    {
        co_await away();
        if (flags.no_hole)
            throw std::system_error{std::make_error_code(std::errc::not_supported)};
        const std::lock_guard lock{store_->mutex};
        std::fill_n(store_->content.begin() + static_cast<std::ptrdiff_t>(offset), length,
                    std::byte{0});
    }

private:
    static awaitable<void> away()
    {
        co_await boost::asio::post(boost::asio::use_awaitable_t<executor>{});
    }
    std::shared_ptr<store> store_;
};

/// A policy of any kind, with the threads that it needs.
template <class Policy>
struct running {
    static Policy make()
    {
        if constexpr (std::is_same_v<Policy, nbd::strand_pool>)
            return Policy{2};
        else
            return {};
    }
};

template <class Backend, class Policy>
class served {
public:
    explicit served(nbd::settings limits = {})
        : server_{somewhere<nbd::unix_transport>(), limits, running<Policy>::make()}
    {
        begin();
    }
    std::shared_ptr<store> shelf = std::make_shared<store>();
    auto& server() { return server_; }
    chunk_client client(style s = style::structured)
    {
        chunk_client c{server_.local_endpoint(), s};
        c.go("disk");
        return c;
    }

private:
    void begin()
    {
        server_.exports().emplace("disk", {}, shelf);
        server_.start();
    }
    nbd::server<nbd::unix_transport, Backend, Policy> server_;
};

/// On an io_context of the program, which two threads run.
template <class Backend>
class served<Backend, nbd::on_executor<>> {
public:
    explicit served(nbd::settings limits = {})
        : server_{io_.get_executor(), somewhere<nbd::unix_transport>(), limits}
    {
        server_.exports().emplace("disk", {}, shelf);
        server_.start();
        thread_ = std::thread{[this] { io_.run(); }};
    }
    ~served()
    {
        server_.stop();
        work_.reset();
        thread_.join();
    }
    std::shared_ptr<store> shelf = std::make_shared<store>();
    auto& server() { return server_; }
    chunk_client client(style s = style::structured)
    {
        chunk_client c{server_.local_endpoint(), s};
        c.go("disk");
        return c;
    }

private:
    boost::asio::io_context io_;
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
        io_.get_executor()};
    nbd::server<nbd::unix_transport, Backend, nbd::on_executor<>> server_;
    std::thread thread_;
};

}  // namespace

TEMPLATE_TEST_CASE("callbacks: every command is carried out, on the caller's thread or another", "",
                   (served<together, nbd::per_client_threads>),
                   (served<together, nbd::strand_pool>), (served<together, nbd::on_executor<>>),
                   (served<one_at_a_time, nbd::strand_pool>))
{
    TestType s;
    s.shelf->place = GENERATE(where::inside, where::elsewhere, where::both);
    auto c = s.client(style::extended);
    const auto data = pattern(100'000, 5);
    for (int i = 0; i < 10; ++i) {
        REQUIRE(c.write(512, data) == error_value::none);
        const auto reply = c.read(512, 100'000);
        REQUIRE(reply.error() == error_value::none);
        CHECK((reply.data(512, 100'000) == data));
    }
    CHECK(c.write(0, bytes(512), cf::fua) == error_value::none);
    CHECK(c.request(command::flush, 0, 0).error() == error_value::none);
    CHECK(c.request(command::trim, 512, 1000).error() == error_value::none);
    CHECK(c.request(command::write_zeroes, 4096, 4096, cf::fua).error() == error_value::none);
    CHECK(c.request(command::write_zeroes, 20'000, 70'000, cf::no_hole).error()
          == error_value::none);
    const auto refused = c.request(command::cache, 0, 512);
    CHECK(refused.error() == error_value::eio);
    CHECK(refused.text() == "no cache today");
    bytes expected(data.begin(), data.end());
    const auto clear = [&](std::size_t at, std::size_t n) {
        std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(at - 512), n, std::byte{0});
    };
    clear(512, 1000);
    clear(4096, 4096);
    clear(20'000, 70'000);
    {
        const std::lock_guard lock{s.shelf->mutex};
        CHECK(std::equal(expected.begin(), expected.end(), s.shelf->content.begin() + 512));
        CHECK(s.shelf->durable_writes == 1);
        CHECK(s.shelf->flushes == 2);
        CHECK(s.shelf->inside == 0);
    }
}

TEMPLATE_TEST_CASE("callbacks: many requests of many clients are in flight, if that is promised",
                   "", (served<together, nbd::per_client_threads>),
                   (served<together, nbd::strand_pool>), (served<together, nbd::on_executor<>>))
{
    TestType s;
    s.shelf->place = where::elsewhere;
    s.shelf->hold(true);
    raw_client clients[] = {connect(s.server()), connect(s.server())};
    for (auto& c : clients) {
        c.go("disk");
        for (std::uint64_t i = 0; i < 20; ++i)
            c.send_request(
                {.command = command::read, .cookie = i, .offset = i * 512, .length = 512});
    }
    CHECK(s.shelf->await([&] { return s.shelf->inside == 40; }));
    s.shelf->hold(false);
    for (auto& c : clients) {
        for (int i = 0; i < 20; ++i) {
            const auto reply = c.receive_reply();
            REQUIRE(reply.error == error_value::none);
            CHECK((c.receive(512)
                   == bytes(s.shelf->content.begin() + std::ptrdiff_t(reply.cookie) * 512,
                            s.shelf->content.begin() + std::ptrdiff_t(reply.cookie + 1) * 512)));
        }
    }
}

TEMPLATE_TEST_CASE("callbacks: without a promise there is one call at a time for all clients", "",
                   (served<one_at_a_time, nbd::per_client_threads>),
                   (served<one_at_a_time, nbd::strand_pool>))
{
    TestType s;
    std::vector<chunk_client> clients;
    for (int i = 0; i < 4; ++i)
        clients.push_back(s.client());
    for (int round = 0; round < 20; ++round) {
        for (auto& c : clients)
            c.send_request(command::read, 0, 512);
        for (auto& c : clients)
            REQUIRE(c.receive_whole().error() == error_value::none);
    }
    const std::lock_guard lock{s.shelf->mutex};
    CHECK(s.shelf->most_inside == 1);
}

namespace {
/// Loses every second completion, and throws from some calls.
struct careless {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    explicit careless(std::shared_ptr<store> s) : kept{std::move(s)} {}
    std::uint64_t size() const { return mib; }
    void async_read(std::uint64_t offset, std::span<std::byte>, completion done)
    {
        switch (offset) {
        case 0:  // destroyed at once
            return;
        case 512:  // destroyed on another thread
            boost::asio::post(kept->threads, [done = std::move(done)] {});
            return;
        case 1024:
            throw std::system_error{ENOSPC, std::generic_category()};
        case 1536:  // stored, then an exception
            boost::asio::post(kept->threads, [done = std::move(done)]() mutable { done(); });
            throw std::runtime_error{"too late"};
        default:
            done();
            done(std::make_error_code(std::errc::io_error));  // a second call
        }
    }
    std::shared_ptr<store> kept;
};
}  // namespace

TEMPLATE_TEST_CASE("callbacks: a completion that is lost is EIO; an exception is its error", "",
                   (served<careless, nbd::per_client_threads>),
                   (served<careless, nbd::strand_pool>))
{
    TestType s;
    auto c = s.client();
    for (int i = 0; i < 5; ++i) {
        CHECK(c.read(0, 512).error() == error_value::eio);
        CHECK(c.read(512, 512).error() == error_value::eio);
        CHECK(c.read(1024, 512).error() == error_value::enospc);
        const auto late = c.read(1536, 512).error();
        CHECK((late == error_value::none || late == error_value::eio));
        const auto read = c.read(2048, 512);
        CHECK(read.error() == error_value::none);
        CHECK((read.data(2048, 512) == bytes(512)));  // nothing was read, so no old memory is sent
    }
}

TEMPLATE_TEST_CASE(
    "callbacks: a client that has waited for the lock leaves it to others at its end", "",
    (served<one_at_a_time, nbd::per_client_threads>), (served<one_at_a_time, nbd::strand_pool>))
{
    TestType s;
    s.shelf->place = where::elsewhere;
    auto stays = s.client();
    const auto ask = [](chunk_client& c) { c.send_request(command::read, 0, 512); };
    for (int round = 0; round < 10; ++round) {
        {
            std::vector<chunk_client> clients;
            for (int i = 0; i < 3; ++i)
                clients.push_back(s.client());
            for (int i = 0; i < 50; ++i) {
                for (auto& c : clients)
                    ask(c);
                for (auto& c : clients)
                    REQUIRE(c.receive_whole().error() == error_value::none);
            }
            s.shelf->hold(true);
            ask(stays);
            REQUIRE(s.shelf->await([&] { return s.shelf->inside == 1; }));
        }
        while (s.server().connections().size() > 1)
            std::this_thread::yield();
        std::thread opener;
        {
            auto next = s.client();
            ask(next);  // has to wait for the call of the client that stays
            opener = std::thread{[&] { s.shelf->hold(false); }};
            REQUIRE(next.receive_whole().error() == error_value::none);
        }
        REQUIRE(stays.receive_whole().error() == error_value::none);
        opener.join();
    }
    const std::lock_guard lock{s.shelf->mutex};
    CHECK(s.shelf->most_inside == 1);
}

TEMPLATE_TEST_CASE("callbacks: the end of a client and stop() wait for started calls", "",
                   (served<together, nbd::per_client_threads>),
                   (served<together, nbd::strand_pool>), (served<together, nbd::on_executor<>>))
{
    TestType s{impatient()};
    s.shelf->place = where::elsewhere;
    s.shelf->hold(true);
    {
        auto gone = s.client();
        gone.send_request(command::read, 0, 512);
        REQUIRE(s.shelf->await([&] { return s.shelf->inside == 1; }));
    }
    auto c = s.client();
    c.send_request(command::read, 0, 512);
    REQUIRE(s.shelf->await([&] { return s.shelf->inside == 2; }));
    std::thread opener{[&] { s.shelf->hold(false); }};
    s.server().stop();  // on the program's executor it only begins to stop
    opener.join();
    CHECK(s.shelf->await([&] { return s.shelf->inside == 0; }));
}

TEMPLATE_TEST_CASE("awaited members may take their arguments by reference", "",
                   (served<awaited_by_reference, nbd::per_client_threads>),
                   (served<awaited_by_reference, nbd::strand_pool>),
                   (served<awaited_by_reference, nbd::on_executor<>>))
{
    TestType s;
    auto c = s.client(style::extended);
    const auto data = pattern(100'000, 5);
    for (int i = 0; i < 5; ++i) {
        REQUIRE(c.write(512, data, cf::fua) == error_value::none);
        const auto reply = c.read(512, 100'000);
        REQUIRE(reply.error() == error_value::none);
        CHECK((reply.data(512, 100'000) == data));
        REQUIRE(c.write(512, data) == error_value::none);
    }
    CHECK(c.request(command::write_zeroes, 512, 4096).error() == error_value::none);
    CHECK(c.request(command::write_zeroes, 8192, 70'000, cf::no_hole).error() == error_value::none);
    CHECK((c.read(512, 4096).data(512, 4096) == bytes(4096)));
    CHECK((c.read(8192, 70'000).data(8192, 70'000) == bytes(70'000)));
    const std::lock_guard lock{s.shelf->mutex};
    CHECK(s.shelf->durable_writes == 5);
}
