// SPDX-License-Identifier: MIT
#include "backend/uring_kernel.hpp"
#include "backend/uring_support.hpp"
#include "catch.hpp"
#include <nbd/backend/uring_async.hpp>

#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>

#include <array>
#include <memory>
#include <vector>

using namespace nbd_test;
constexpr auto operation_canceled = std::errc::operation_canceled;

namespace {

/// Awaits a request, and counts how it ended.
struct tally {
    int good = 0;
    int called_off = 0;
    int other = 0;
    int frames = 0;  // that live

    task<void> await(nbd::uring_request request)
    {
        struct frame {
            int& count;
            explicit frame(int& c) : count{c} { ++count; }
            ~frame() { --count; }
        } const alive{frames};
        const auto said = co_await uring(request);
        ++(!said ? good : said == operation_canceled ? called_off : other);
    }
};

/// Counts what is taken from it.
template <class T>
struct counting_allocator {
    using value_type = T;
    int* taken;
    int* given_back;
    counting_allocator(int* t, int* g) : taken{t}, given_back{g} {}
    template <class U>
    counting_allocator(const counting_allocator<U>& other)
        : taken{other.taken}, given_back{other.given_back}
    {
    }
    T* allocate(std::size_t n)
    {
        ++*taken;
        return std::allocator<T>{}.allocate(n);
    }
    void deallocate(T* p, std::size_t n)
    {
        ++*given_back;
        std::allocator<T>{}.deallocate(p, n);
    }
    bool operator==(const counting_allocator&) const = default;
};

}  // namespace

TEST_CASE("backend/uring_async: reads until all bytes have arrived, in any pieces")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    const pipe_pair pipe;
    std::array<char, 6> to{};
    tally seen;
    asio::co_spawn(context, seen.await(pipe.read(to)), asio::detached);
    pipe.say("ab");
    context.poll();
    CHECK(seen.frames == 1);
    pipe.say("cd");
    context.poll();
    CHECK(seen.frames == 1);
    pipe.say("efgh");
    context.run();
    CHECK(seen.good == 1);
    CHECK(std::string(to.data(), to.size()) == "abcdef");
    CHECK(pipe.rest() == "gh");
}

TEST_CASE("backend/uring_async: the end of the data is EIO; a bad descriptor is the system's error")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    std::array<char, 6> to{};
    const auto memory = std::as_writable_bytes(std::span{to});
    const auto file = ::open("/dev/null", O_RDWR);
    CHECK(run(context, uring(nbd::uring_request::read(file, 0, memory))) == std::errc::io_error);
    CHECK_FALSE(run(context, uring(nbd::uring_request::read(file, 0, {}))));
    ::close(file);
    CHECK(run(context, uring(nbd::uring_request::read(file, 0, memory)))
          == std::errc::bad_file_descriptor);
    // As a client gets it: with the offset, and as an error that has a value on the wire.
    const auto heard =
        run(context,
            nbd::async_uring<nbd::failure>(nbd::uring_request::read(file, 77, memory),
                                           asio::use_awaitable_t<executor>{}));
    CHECK(heard == std::errc::io_error);
    CHECK(heard.text == std::system_category().message(EBADF));
    CHECK(heard.offset == 77U);
}

TEST_CASE("backend/uring_async: operations that start in one turn are one submission")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    const pipe_pair pipe;
    std::vector<std::array<char, 1>> to(64);
    tally seen;
    for (auto& t : to)
        asio::co_spawn(context, seen.await(pipe.read(t)), asio::detached);
    uring_kernel::reset();
    context.poll();
    CHECK(seen.frames == 64);
    CHECK(uring_kernel::submissions == 1);
    CHECK(uring_kernel::rings == 1);
    pipe.say(std::string(64, 'x'));
    context.run();
    CHECK(seen.good == 64);
    CHECK(uring_kernel::rings == 1);
}

TEST_CASE("backend/uring_async: operations beyond the ring's size wait for room")
{
    NBD_NEED_URING();
    const bool cancel = GENERATE(false, true);
    asio::io_context context{1};
    const pipe_pair pipe;
    std::vector<std::array<char, 1>> to(1000);
    std::vector<asio::cancellation_signal> signals(to.size());
    tally seen;
    for (std::size_t i = 0; i < to.size(); ++i)
        asio::co_spawn(context, seen.await(pipe.read(to[i])),
                       asio::bind_cancellation_slot(signals[i].slot(), asio::detached));
    context.poll();
    CHECK(seen.frames == 1000);
    if (cancel) {
        for (auto& s : signals)
            s.emit(asio::cancellation_type::terminal);
        context.run();
        CHECK(seen.called_off == 1000);
        pipe.say("nobody reads this");
        CHECK(pipe.rest() == "nobody reads this");
    } else {
        pipe.say(std::string(1000, 'x'));
        context.run();
        CHECK(seen.good == 1000);
        CHECK(std::all_of(to.begin(), to.end(), [](const auto& t) { return t[0] == 'x'; }));
    }
    CHECK(seen.frames == 0);
}

TEST_CASE("backend/uring_async: a read that would wait forever is cancelled, also in the kernel")
{
    NBD_NEED_URING();
    const auto type = GENERATE(asio::cancellation_type::terminal, asio::cancellation_type::partial,
                               asio::cancellation_type::total);
    const bool submitted = GENERATE(false, true);
    asio::io_context context{1};
    const pipe_pair pipe;
    std::array<char, 4> to{};
    asio::cancellation_signal stop;
    std::error_code said;
    bool ended = false;
    nbd::async_uring<std::error_code>(
        pipe.read(to),
        asio::bind_executor(context.get_executor(),
                            asio::bind_cancellation_slot(stop.slot(), [&](std::error_code e) {
                                said = e;
                                ended = true;
                            })));
    if (submitted)
        context.poll();
    stop.emit(asio::cancellation_type::none);
    context.poll();
    stop.emit(type);
    stop.emit(type);
    CHECK_FALSE(ended);  // not before the kernel has confirmed it
    context.run();
    CHECK(ended);
    CHECK(said == operation_canceled);
    stop.emit(type);  // too late: no effect
    pipe.say("late");
    CHECK(pipe.rest() == "late");
    CHECK(to[0] == '\0');
}

TEST_CASE("backend/uring_async: a cancellation that comes too late is a success")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    const pipe_pair pipe;
    std::array<char, 4> to{};
    asio::cancellation_signal stop;
    tally seen;
    asio::co_spawn(context, seen.await(pipe.read(to)),
                   asio::bind_cancellation_slot(stop.slot(), asio::detached));
    context.poll();
    pipe.say("full");
    asio::post(context, [&] { stop.emit(asio::cancellation_type::terminal); });
    context.run();
    CHECK(seen.good == 1);
    CHECK(std::string(to.data(), to.size()) == "full");
}

TEST_CASE("backend/uring_async: a read that has a part of its bytes is cancelled")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    const pipe_pair pipe;
    std::array<char, 4> to{};
    asio::cancellation_signal stop;
    tally seen;
    asio::co_spawn(context, seen.await(pipe.read(to)),
                   asio::bind_cancellation_slot(stop.slot(), asio::detached));
    pipe.say("hal");
    context.poll();
    stop.emit(asio::cancellation_type::terminal);
    context.run();
    CHECK(seen.called_off == 1);
}

TEST_CASE("backend/uring_async: destroying a context destroys the operations in flight")
{
    NBD_NEED_URING();
    const auto count = GENERATE(1U, 64U, 300U);
    const pipe_pair pipe;
    tally seen;
    {
        // The memory is freed with the context, so the sanitizer detects later writes.
        std::vector<std::unique_ptr<std::array<char, 4>>> to(count);
        auto context = std::make_unique<asio::io_context>(1);
        for (auto& t : to) {
            t = std::make_unique<std::array<char, 4>>();
            asio::co_spawn(*context, seen.await(pipe.read(*t)), asio::detached);
        }
        context->poll();
        CHECK(seen.frames == static_cast<int>(count));
        context.reset();
        CHECK(seen.frames == 0);
    }
    CHECK(seen.good + seen.called_off + seen.other == 0);  // no handler was called
    pipe.say("nobody reads this");
    CHECK(pipe.rest() == "nobody reads this");
}

TEST_CASE(
    "backend/uring_async: destroying a context before its first turn, and one that was never used")
{
    NBD_NEED_URING();
    const pipe_pair pipe;
    tally seen;
    std::array<char, 4> to{};
    {
        asio::io_context context{1};
        asio::co_spawn(context, seen.await(pipe.read(to)), asio::detached);
        context.run_one();
        CHECK(seen.frames == 1);
    }
    CHECK(seen.frames == 0);
    asio::io_context unused{1};
    asio::use_service<nbd::uring_service>(unused);
}

TEST_CASE("backend/uring_async: an exception from one handler does not prevent the others")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    const pipe_pair pipe;
    std::vector<std::array<char, 1>> to(10);
    int ended = 0;
    for (auto& t : to)
        nbd::async_uring<std::error_code>(
            pipe.read(t), asio::bind_executor(context.get_executor(), [&](std::error_code) {
                if (++ended == 3)
                    throw 42;
            }));
    pipe.say("0123456789");
    CHECK_THROWS_AS(context.run(), int);
    context.run();
    CHECK(ended == 10);
}

TEST_CASE("backend/uring_async: one allocation, by the handler's allocator, freed before the call")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    const pipe_pair pipe;
    std::array<char, 1> to{};
    int taken = 0;
    int given_back = 0;
    bool clean = false;
    const auto handler = [&](std::error_code) { clean = taken == 1 && given_back == 1; };
    nbd::async_uring<std::error_code>(
        pipe.read(to),
        asio::bind_executor(
            context.get_executor(),
            asio::bind_allocator(counting_allocator<void*>{&taken, &given_back}, handler)));
    CHECK(taken == 1);
    pipe.say("x");
    context.run();
    CHECK(clean);
    CHECK(given_back == 1);
}
