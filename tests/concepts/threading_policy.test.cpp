// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/concepts/threading_policy.hpp>
#include <nbd/threading/per_client_threads.hpp>
#include <nbd/threading/strand_pool.hpp>

static_assert(nbd::threading_policy<nbd::per_client_threads>
              && nbd::threading_policy<nbd::strand_pool>);
static_assert(nbd::per_client_threads::blocking && !nbd::strand_pool::blocking);
static_assert(!nbd::threading_policy<int>);

namespace {
struct least {
    using executor_type = int;
    static constexpr bool blocking = true;
    void start() {}
    int next_executor() { return 0; }
    template <class Session>
    void launch(int, Session) noexcept
    {
    }
    bool runs_here() const { return false; }
    void join() {}
};
struct no_join : private least {
    using least::blocking;
    using least::executor_type;
    using least::launch;
    using least::next_executor;
    using least::runs_here;
    using least::start;
};
struct other_executor : least {
    long next_executor() { return 0; }
};
static_assert(nbd::threading_policy<least> && !nbd::threading_policy<no_join>);
static_assert(!nbd::threading_policy<other_executor>);
}  // namespace

TEST_CASE("concepts/threading_policy: policies are values, made before the server")
{
    STATIC_REQUIRE(std::is_move_constructible_v<nbd::per_client_threads>);
    STATIC_REQUIRE(std::is_move_constructible_v<nbd::strand_pool>);
    STATIC_REQUIRE_FALSE(std::is_polymorphic_v<nbd::per_client_threads>);
    STATIC_REQUIRE_FALSE(std::is_polymorphic_v<nbd::strand_pool>);
}
