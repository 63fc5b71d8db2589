// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "threading/reporting.hpp"
#include <nbd/io/blocking.hpp>
#include <nbd/threading/per_client_threads.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <future>
#include <iterator>
#include <latch>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

using nbd::per_client_threads;
using task = nbd::io::blocking::task<void>;
using nbd_test::reporting;

namespace {
task run(std::function<void()> f)
{
    f();
    co_return;
}

/// The number of threads of this process.
std::ptrdiff_t threads()
{
    return std::distance(std::filesystem::directory_iterator{"/proc/self/task"},
                         std::filesystem::directory_iterator{});
}
}  // namespace

TEST_CASE("threading/per_client_threads: each client has its own thread, and join waits for all")
{
    per_client_threads policy;
    policy.start();
    std::mutex mutex;
    std::set<std::thread::id> seen;
    std::atomic<int> here{0};
    std::atomic<int> done{0};
    constexpr int clients = 20;
    std::promise<void> all_there;
    std::shared_future<void> go{all_there.get_future()};
    std::atomic<int> arrived{0};
    for (int i = 0; i < clients; ++i) {
        policy.launch(policy.next_executor(),
                      reporting{[&] {
                                    return run([&] {
                                        {
                                            const std::lock_guard lock{mutex};
                                            seen.insert(std::this_thread::get_id());
                                        }
                                        here += policy.runs_here() ? 1 : 0;
                                        // None ends before all have begun, so all have a thread at
                                        // the same time.
                                        if (++arrived == clients)
                                            all_there.set_value();
                                        go.wait();
                                    });
                                },
                                [&] {
                                    here += policy.runs_here() ? 1 : 0;
                                    ++done;
                                }});
    }
    policy.join();
    CHECK(done == clients);
    CHECK(here == 2 * clients);
    CHECK(seen.size() == clients);
    CHECK_FALSE(seen.contains(std::this_thread::get_id()));
    CHECK_FALSE(policy.runs_here());
}

TEST_CASE("threading/per_client_threads: a session is destroyed once, also if its task throws")
{
    per_client_threads policy;
    policy.start();
    std::atomic<int> done{0};
    policy.launch(
        policy.next_executor(),
        reporting{[] { return run([] { throw std::runtime_error{"x"}; }); }, [&] { ++done; }});
    policy.launch(policy.next_executor(), reporting{[]() -> task { throw 42; }, [&] { ++done; }});
    policy.launch(policy.next_executor(), reporting{[] { return run([] {}); }, [&] { ++done; }});
    policy.join();
    CHECK(done == 3);
}

TEST_CASE("threading/per_client_threads: join without clients returns, and may be called again")
{
    per_client_threads policy;
    policy.join();
    policy.start();
    policy.join();
    std::atomic<int> done{0};
    policy.launch(policy.next_executor(), reporting{[] { return run([] {}); }, [&] { ++done; }});
    policy.join();
    policy.join();
    CHECK(done == 1);
}

TEST_CASE("threading/per_client_threads: many short clients leave no threads behind")
{
    per_client_threads policy;
    policy.start();
    std::atomic<int> done{0};
    for (int i = 0; i < 500; ++i)
        policy.launch(policy.next_executor(),
                      reporting{[] { return run([] {}); }, [&] { ++done; }});
    policy.join();
    CHECK(done == 500);
}

TEST_CASE("threading/per_client_threads: a thread whose client has left serves a later client")
{
    per_client_threads policy;
    policy.start();
    std::atomic<int> most{0};
    // The thread of a client that has just left may not wait yet.
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{20};
    while (most < 3 && std::chrono::steady_clock::now() < end) {
        std::promise<void> left;
        policy.launch(policy.next_executor(),
                      reporting{[&] {
                                    return run([&] {
                                        thread_local int served = 0;
                                        most = std::max(most.load(), ++served);
                                        CHECK(policy.runs_here());
                                    });
                                },
                                [&] { left.set_value(); }});
        left.get_future().wait();
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
    }
    CHECK(most == 3);
    policy.join();
    policy.join();
}

TEST_CASE("threading/per_client_threads: a thread that waits for a client in vain ends")
{
    const auto before = threads();
    per_client_threads policy;
    policy.start();
    std::atomic<int> done{0};
    std::latch all_there{8};
    for (int i = 0; i < 8; ++i)
        policy.launch(
            policy.next_executor(),
            reporting{[&] { return run([&] { all_there.arrive_and_wait(); }); }, [&] { ++done; }});
    // Each thread joins the one that ended before it; the last one is only joined later.
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{20};
    while (threads() > before && std::chrono::steady_clock::now() < end)
        std::this_thread::sleep_for(std::chrono::milliseconds{20});
    CHECK(threads() == before);
    CHECK(done == 8);
    policy.join();
}

TEST_CASE("threading/per_client_threads: join does not wait for clients that could still come")
{
    // Each round would take a second otherwise.
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 20; ++i) {
        per_client_threads policy;
        policy.start();
        std::promise<void> left;
        policy.launch(policy.next_executor(),
                      reporting{[] { return run([] {}); }, [&] { left.set_value(); }});
        left.get_future().wait();
        std::this_thread::sleep_for(std::chrono::milliseconds{i / 10});
        policy.join();
    }
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds{10});
}

TEST_CASE("threading/per_client_threads: it can be moved before it starts")
{
    per_client_threads first;
    auto policy = std::move(first);
    policy.start();
    std::atomic<int> done{0};
    policy.launch(policy.next_executor(), reporting{[] { return run([] {}); }, [&] { ++done; }});
    policy.join();
    CHECK(done == 1);
}
