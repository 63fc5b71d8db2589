// SPDX-License-Identifier: MIT
// The ring of a context: many threads, refusals of the kernel, and threads that end.
#include "backend/uring_kernel.hpp"
#include "backend/uring_support.hpp"
#include "catch.hpp"
#include <nbd/backend/uring_service.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <list>
#include <random>
#include <thread>
#include <vector>

using namespace nbd_test;

namespace {

struct ended {
    int good = 0;
    int called_off = 0;
    std::vector<int> errors{};

    task<void> await(nbd::uring_request request)
    {
        const auto said = co_await uring(request);
        if (!said)
            ++good;
        else if (said == std::errc::operation_canceled)
            ++called_off;
        else
            errors.push_back(said.value());
    }
};

}  // namespace

TEST_CASE("backend/uring_service: reports clearly that the kernel refuses io_uring")
{
    NBD_NEED_URING();
    const auto error = GENERATE(ENOSYS, EPERM, EOPNOTSUPP);
    const bool makes_rings = GENERATE(false, true);
    uring_kernel::reset();
    uring_kernel::refuse_rings = makes_rings ? 0 : 1;
    uring_kernel::refuse_submissions = makes_rings ? 1 : 0;
    uring_kernel::ring_error = uring_kernel::submission_error = error;
    try {
        nbd::uring_service::probe();
        FAIL("it was made");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::error_code{error, std::system_category()});
        CHECK_THAT(e.what(), Catch::Matchers::ContainsSubstring("the kernel refuses io_uring"));
        CHECK_THAT(e.what(), Catch::Matchers::ContainsSubstring("seccomp"));
    }
}

TEST_CASE("backend/uring_service: works without features that older kernels lack")
{
    NBD_NEED_URING();
    uring_kernel::reset();
    uring_kernel::refused_flags = ~0U;
    nbd::uring_service::probe();
    CHECK(uring_kernel::rings == 1);
    uring_kernel::reset();
}

TEST_CASE("backend/uring_service: without a ring, each operation of the context fails")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    const pipe_pair pipe;
    std::array<char, 1> to{};
    uring_kernel::reset();
    uring_kernel::refuse_rings = 1;
    uring_kernel::ring_error = EMFILE;
    CHECK(run(context, uring(pipe.read(to))) == std::errc::too_many_files_open);
    pipe.say("x");
    CHECK_FALSE(run(context, uring(pipe.read(to))));  // a ring could be created later
}

TEST_CASE("backend/uring_service: a submission for which the kernel lacks resources is repeated")
{
    NBD_NEED_URING();
    const auto error = GENERATE(EAGAIN, EBUSY, ENOMEM, EINTR);
    asio::io_context context{1};
    const pipe_pair pipe;
    std::vector<std::array<char, 1>> to(200);
    pipe.say(std::string(200, 'x'));
    ended seen;
    for (auto& t : to)
        asio::co_spawn(context, seen.await(pipe.read(t)), asio::detached);
    uring_kernel::reset();
    uring_kernel::refuse_submissions = 5;
    uring_kernel::submission_error = error;
    context.run();
    CHECK(seen.good == 200);
    CHECK(uring_kernel::submissions > 5);
}

TEST_CASE(
    "backend/uring_service: submissions to a kernel that lacks resources are repeated with pauses")
{
    NBD_NEED_URING();
    using std::chrono::milliseconds;
    const auto error = GENERATE(EAGAIN, EBUSY, ENOMEM);
    asio::io_context context{1};
    const pipe_pair pipe;
    std::vector<std::array<char, 1>> to(200);
    pipe.say(std::string(200, 'x'));
    ended seen;
    for (auto& t : to)
        asio::co_spawn(context, seen.await(pipe.read(t)), asio::detached);
    uring_kernel::reset();
    uring_kernel::refuse_submissions = 1'000'000;
    uring_kernel::submission_error = error;
    context.run_for(milliseconds{200});
    CHECK(seen.good == 0);
    CHECK(seen.errors.empty());
    CHECK(uring_kernel::submissions > 1);
    CHECK(uring_kernel::submissions < 100);
    uring_kernel::refuse_submissions = 0;
    context.run();
    CHECK(seen.good == 200);
}

TEST_CASE("backend/uring_service: an operation for which the kernel lacks resources is repeated "
          "with pauses")
{
    NBD_NEED_URING();
    using std::chrono::milliseconds;
    asio::io_context context{1};
    const pipe_pair pipe;
    // RWF_NOWAIT on an empty pipe gives EAGAIN, as a kernel without resources does.
    std::array<char, 1> to{};
    auto reading = pipe.read(to);
    reading.flags = RWF_NOWAIT;
    ended seen;
    asio::co_spawn(context, seen.await(reading), asio::detached);
    uring_kernel::reset();
    context.run_for(milliseconds{100});
    if (seen.errors == std::vector{EOPNOTSUPP})
        NBD_SKIP("this kernel waits for every pipe");
    CHECK(seen.errors.empty());
    CHECK(uring_kernel::submissions > 1);
    CHECK(uring_kernel::submissions < 50);
    pipe.say("x");
    context.run();
    CHECK(seen.good == 1);
    // Finally it is an error.
    asio::co_spawn(context, seen.await(reading), asio::detached);
    context.restart();
    context.run_for(std::chrono::seconds{60});
    CHECK(seen.errors == std::vector{EAGAIN});
}

TEST_CASE("backend/uring_service: a context can be destroyed while the kernel lacks resources")
{
    NBD_NEED_URING();
    const pipe_pair pipe;
    std::array<char, 1> to{};
    ended seen;
    {
        asio::io_context context{1};
        asio::co_spawn(context, seen.await(pipe.read(to)), asio::detached);
        uring_kernel::reset();
        uring_kernel::refuse_submissions = 5;
        uring_kernel::submission_error = EAGAIN;
        context.poll();
        CHECK(uring_kernel::refuse_submissions < 5);
    }
    CHECK(uring_kernel::refuse_submissions == 0);
    CHECK(seen.good + seen.called_off == 0);
}

TEST_CASE(
    "backend/uring_service: a refused submission is an error of all waiting and later operations")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    const pipe_pair pipe;
    const pipe_pair slow;
    std::vector<std::array<char, 1>> to(200);
    ended seen;
    ended early;
    asio::co_spawn(context, early.await(slow.read(to[0])), asio::detached);
    context.poll();
    for (auto& t : to)
        asio::co_spawn(context, seen.await(pipe.read(t)), asio::detached);
    uring_kernel::reset();
    uring_kernel::refuse_submissions = 1;
    uring_kernel::submission_error = EPERM;
    context.poll();
    CHECK(seen.errors == std::vector<int>(200, EPERM));
    asio::co_spawn(context, seen.await(pipe.read(to[1])), asio::detached);
    context.poll();
    CHECK(seen.errors.size() == 201);
    slow.say("x");  // operations that were submitted before still complete
    context.run();
    CHECK(early.good == 1);
}

TEST_CASE("backend/uring_service: an operation continues after its submitting thread has ended")
{
    NBD_NEED_URING();
    asio::io_context context;
    const pipe_pair pipe;
    std::vector<std::array<char, 1>> to(20);
    ended seen;
    for (auto& t : to)
        asio::co_spawn(context, seen.await(pipe.read(t)), asio::detached);
    std::thread{[&] { context.poll(); }}.join();
    CHECK(seen.good == 0);
    pipe.say(std::string(20, 'x'));
    context.run();
    CHECK(seen.good == 20);
    CHECK(seen.errors.empty());
}

TEST_CASE("backend/uring_service: a context on many threads, with strands")
{
    NBD_NEED_URING();
    using strand = asio::strand<executor>;
    constexpr unsigned clients = 8;
    constexpr int rounds = 200;
    asio::io_context context;
    std::atomic<int> good = 0;
    std::atomic<int> called_off = 0;
    std::list<pipe_pair> pipes;

    // Each client reads what it has written, and sometimes cancels a read that would never
    // complete.
    const auto client = [&](strand on, const pipe_pair& pipe,
                            unsigned seed) -> asio::awaitable<void, strand> {
        constexpr asio::use_awaitable_t<strand> token;
        std::mt19937 random{seed};
        std::array<char, 8> to{};
        asio::cancellation_signal stop;
        for (int i = 0; i < rounds; ++i) {
            const bool answered = random() % 4 != 0;
            const auto stop_soon = [&stop](asio::cancellation_type type) { stop.emit(type); };
            if (answered)
                pipe.say("8 bytes.");
            else
                asio::post(on, [stop_soon] { stop_soon(asio::cancellation_type::terminal); });
            std::error_code said;
            co_await asio::co_spawn(
                on,
                [&]() -> asio::awaitable<void, strand> {
                    co_await asio::this_coro::throw_if_cancelled(false);
                    said = co_await nbd::async_uring<std::error_code>(pipe.read(to), token);
                },
                asio::bind_cancellation_slot(stop.slot(), token));
            if (!said)
                ++good;
            else if (said == std::errc::operation_canceled && !answered)
                ++called_off;
            else
                throw std::system_error{said};
        }
    };
    for (unsigned i = 0; i < clients; ++i) {
        const auto on = asio::make_strand(context.get_executor());
        asio::co_spawn(on, client(on, pipes.emplace_back(), i), [](const std::exception_ptr& e) {
            if (e)
                std::rethrow_exception(e);
        });
    }
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] { context.run(); });
    for (auto& t : threads)
        t.join();
    CHECK(good + called_off == static_cast<int>(clients) * rounds);
    CHECK(called_off > 0);
}

TEST_CASE("backend/uring_service: a context whose threads change, and which is restarted")
{
    NBD_NEED_URING();
    asio::io_context context{1};
    const pipe_pair pipe;
    std::array<char, 1> to{};
    for (int i = 0; i < 50; ++i) {
        // The data arrive before the start, in the same turn, and after the submission.
        if (i % 3 == 0)
            pipe.say("x");
        ended seen;
        asio::co_spawn(context, seen.await(pipe.read(to)), asio::detached);
        if (i % 3 == 1)
            asio::post(context, [&] { pipe.say("x"); });
        if (i % 3 == 2) {
            context.poll();
            pipe.say("x");
        }
        std::thread{[&] { context.run(); }}.join();
        context.restart();
        CHECK(seen.good == 1);
    }
}
