// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "threading/reporting.hpp"
#include <nbd/io/blocking.hpp>
#include <nbd/threading/per_client_threads.hpp>

#include <atomic>
#include <functional>
#include <future>
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
