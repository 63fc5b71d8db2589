// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/vocabulary/owned_context.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <memory>
#include <utility>

namespace {

using nbd::owned_context;

/// A handler that keeps something.
struct keeps {
    std::shared_ptr<int> what;
    int* calls;
    void operator()() const { ++*calls; }
};
using executor = boost::asio::io_context::executor_type;
using resume = nbd::resume_at_home<keeps, executor>;

}  // namespace

TEST_CASE("owned_context: a thread knows the context that it runs")
{
    const auto own = std::make_shared<owned_context>();
    const auto other = std::make_shared<owned_context>();
    CHECK(owned_context::of(own->context) == nullptr);
    {
        const owned_context::scope outer{*own};
        CHECK(owned_context::of(own->context) == own);
        CHECK(owned_context::of(other->context) == nullptr);
        {
            const owned_context::scope inner{*other};
            CHECK(owned_context::of(own->context) == nullptr);
            CHECK(owned_context::of(other->context) == other);
        }
        CHECK(owned_context::of(own->context) == own);
    }
    CHECK(owned_context::of(own->context) == nullptr);
}

TEST_CASE("owned_context: leave destroys what waits on the context")
{
    auto own = std::make_shared<owned_context>();
    const auto kept = std::make_shared<int>();
    int calls = 0;
    boost::asio::post(own->context, keeps{kept, &calls});
    CHECK(kept.use_count() == 2);
    own->leave();
    CHECK(kept.use_count() == 1);
    CHECK(calls == 0);
}

TEST_CASE("owned_context: a handler is resumed on it until it is left")
{
    auto own = std::make_shared<owned_context>();
    const std::weak_ptr watched = own;
    const auto kept = std::make_shared<int>();
    int calls = 0;
    {
        resume first{keeps{kept, &calls}, own->context.get_executor(), own};
        first();
        own->context.poll();
        CHECK(calls == 1);
        CHECK(kept.use_count() == 1);
    }
    std::make_unique<resume>(keeps{kept, &calls}, own->context.get_executor(), own).reset();
    CHECK(kept.use_count() == 1);  // not called

    resume late{keeps{kept, &calls}, own->context.get_executor(), own};
    own->leave();
    own.reset();
    CHECK(!watched.expired());
    CHECK(kept.use_count() == 2);
    const auto called = std::make_unique<resume>(std::move(late));
    (*called)();
    CHECK(calls == 1);
}

TEST_CASE("owned_context: what waited for a context that was left frees it")
{
    auto own = std::make_shared<owned_context>();
    const std::weak_ptr watched = own;
    const auto kept = std::make_shared<int>();
    int calls = 0;
    auto late = std::make_unique<resume>(keeps{kept, &calls}, own->context.get_executor(), own);
    own->leave();
    own.reset();
    late.reset();
    CHECK(kept.use_count() == 1);
    CHECK(watched.expired());
}
