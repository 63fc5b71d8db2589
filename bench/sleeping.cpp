// SPDX-License-Identifier: MIT
// nbd-sleeping: serves a disk on which every READ and WRITE takes a millisecond. This shows how
// many of them the server keeps in flight: at depth 64 the maximum is 64,000 requests a second.
#include <nbd/server.hpp>

#include <CLI/CLI.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <exception>
#include <iostream>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <sys/prctl.h>

namespace {

constexpr std::uint64_t disk_bytes = std::uint64_t{1} << 30;
constexpr std::chrono::milliseconds nap{1};

/// Waits as an Asio program does: with a coroutine and a timer for each request.
class awaiting_disk {
public:
    using executor_type = boost::asio::io_context::executor_type;
    using awaited = boost::asio::awaitable<std::error_code, executor_type>;
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool fills_reads = true;

    [[nodiscard]] std::uint64_t size() const noexcept { return disk_bytes; }
    awaited read(std::uint64_t, std::span<std::byte> to)
    {
        std::ranges::fill(to, std::byte{0x5a});
        co_return co_await sleep();
    }
    awaited write(std::uint64_t, std::span<const std::byte>) { co_return co_await sleep(); }

private:
    using clock = std::chrono::steady_clock;
    using timer =
        boost::asio::basic_waitable_timer<clock, boost::asio::wait_traits<clock>, executor_type>;
    using token = boost::asio::as_tuple_t<boost::asio::use_awaitable_t<executor_type>>;

    static awaited sleep()
    {
        timer alarm{co_await boost::asio::this_coro::executor, nap};
        const auto [error] = co_await alarm.async_wait(token{});
        co_return error;
    }
};

/// Blocks as a system call does.
class blocking_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;
    static constexpr bool fills_reads = true;

    [[nodiscard]] std::uint64_t size() const noexcept { return disk_bytes; }
    std::error_code read(std::uint64_t, std::span<std::byte> to) noexcept
    {
        std::ranges::fill(to, std::byte{0x5a});
        return sleep();
    }
    std::error_code write(std::uint64_t, std::span<const std::byte>) noexcept { return sleep(); }

private:
    static std::error_code sleep() noexcept
    {
        ::timespec left{.tv_sec = 0, .tv_nsec = std::chrono::nanoseconds{nap}.count()};
        while (::nanosleep(&left, &left) != 0)
            if (errno != EINTR)
                return {errno, std::system_category()};
        return {};
    }
};

template <class Backend, class Policy>
void serve(const std::string& path, Policy policy)
{
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};
    nbd::server<nbd::unix_transport, Backend, Policy> server{
        {.path = path}, nbd::settings{}, std::move(policy)};
    server.exports().add("", Backend{});
    server.start();
    std::cout << "serving " << server.uri("") << std::endl;
    signals.async_wait([](auto, int) {});
    program.run();
}

}  // namespace

int main(int argc, char** argv)
{
    std::string mode;
    std::string path;
    CLI::App app{"Serves a disk on which every request takes a millisecond.", "nbd-sleeping"};
    app.add_option(
           "MODE", mode,
           "async, an awaited backend on a pool of two threads; async-threads, the same with a "
           "thread for each client; blocks, a backend that blocks, on a pool of 64 threads")
        ->required()
        ->check(CLI::IsMember({"async", "async-threads", "blocks"}));
    app.add_option("--unix", path, "listen on this UNIX socket")->required()->type_name("PATH");
    try {
        app.parse(argc, argv);
        // By default the kernel adds up to 50 us to a thread's sleep.
        ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
        if (mode == "async")
            serve<awaiting_disk>(path, nbd::strand_pool{2});
        else if (mode == "async-threads")
            serve<awaiting_disk>(path, nbd::per_client_threads{});
        else
            serve<blocking_disk>(path, nbd::strand_pool{64});
        return 0;
    } catch (const CLI::Success& e) {
        return app.exit(e);
    } catch (const CLI::ParseError& e) {
        std::cerr << "nbd-sleeping: " << e.what() << '\n';
        return 2;
    } catch (const std::exception& e) {
        std::cerr << "nbd-sleeping: " << e.what() << '\n';
        return 1;
    }
}
