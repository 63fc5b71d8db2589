// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "threading/reporting.hpp"
#include <nbd/threading/strand_pool.hpp>

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <thread>

using nbd::strand_pool;
using executor = strand_pool::executor_type;
using task = boost::asio::awaitable<void, executor>;
using nbd_test::reporting;

namespace {
task run(std::function<void()> f)
{
    f();
    co_return;
}
/// Posts to the executor repeatedly, and calls a function each time.
task turns(executor at, int n, std::function<void()> f)
{
    for (int i = 0; i < n; ++i) {
        co_await boost::asio::post(at, boost::asio::use_awaitable_t<executor>{});
        f();
    }
}
}  // namespace

TEST_CASE("threading/strand_pool: 0 threads is an error that names the parameter")
{
    CHECK_THROWS_WITH(strand_pool{0}, "nbd: strand_pool: threads must be at least 1");
    CHECK_THROWS_AS(strand_pool{0}, std::invalid_argument);
}

TEST_CASE("threading/strand_pool: clients share the threads, and each stays on one of them")
{
    strand_pool policy{3};
    policy.start();
    std::mutex mutex;
    std::set<std::thread::id> seen;
    std::atomic<int> moved{0};
    std::atomic<int> away{0};
    std::atomic<int> done{0};
    for (int i = 0; i < 30; ++i) {
        const auto at = policy.next_executor();
        policy.launch(at,
                      reporting{[&, at, first = std::thread::id{}]() mutable {
                                    return turns(at, 20, [&, first]() mutable {
                                        const auto now = std::this_thread::get_id();
                                        moved += first != std::thread::id{} && first != now ? 1 : 0;
                                        first = now;
                                        away += policy.runs_here() ? 0 : 1;
                                        const std::lock_guard lock{mutex};
                                        seen.insert(now);
                                    });
                                },
                                [&] { ++done; }});
    }
    CHECK_FALSE(policy.runs_here());
    policy.join();
    CHECK(done == 30);
    CHECK(moved == 0);
    CHECK(away == 0);
    CHECK(seen.size() == 3);
}

TEST_CASE("threading/strand_pool: a session is destroyed once, also if its task throws")
{
    strand_pool policy{1};
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

TEST_CASE("threading/strand_pool: a session is destroyed if the initiation of an operation throws")
{
    strand_pool policy{1};
    policy.start();
    std::atomic<int> done{0};
    policy.launch(policy.next_executor(),
                  reporting{[]() -> task {
                                const boost::asio::use_awaitable_t<executor> token;
                                co_await boost::asio::async_initiate<
                                    const boost::asio::use_awaitable_t<executor>, void()>(
                                    [](auto&&) { throw std::bad_alloc{}; }, token);
                            },
                            [&] { ++done; }});
    policy.launch(policy.next_executor(), reporting{[] { return run([] {}); }, [&] { ++done; }});
    policy.join();
    CHECK(done == 2);
}

TEST_CASE("threading/strand_pool: join does not wait for a timer that a session has left")
{
    const auto kept = std::make_shared<int>();
    {
        strand_pool policy{1};
        policy.start();
        std::atomic<int> done{0};
        const auto at = policy.next_executor();
        policy.launch(
            at,
            reporting{[&] {
                          return run([&, at] {
                              using timer = boost::asio::basic_waitable_timer<
                                  std::chrono::steady_clock,
                                  boost::asio::wait_traits<std::chrono::steady_clock>, executor>;
                              const auto left = std::make_shared<timer>(at, std::chrono::hours{1});
                              left->async_wait([left, kept](const auto&) {});
                          });
                      },
                      [&] { ++done; }});
        policy.join();
        CHECK(done == 1);
        CHECK(kept.use_count() == 2);
    }
    CHECK(kept.use_count() == 1);
}

TEST_CASE("threading/strand_pool: join without clients returns, and may be called again")
{
    strand_pool policy;
    policy.join();
    policy.start();
    policy.join();
    policy.join();
    CHECK_FALSE(policy.runs_here());
}

TEST_CASE("threading/strand_pool: it can be moved before it starts")
{
    strand_pool first{2};
    auto policy = std::move(first);
    policy.start();
    std::atomic<int> done{0};
    policy.launch(policy.next_executor(), reporting{[] { return run([] {}); }, [&] { ++done; }});
    policy.join();
    CHECK(done == 1);
}
