// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/periodic_notifier.hpp>

#include <boost/asio/io_context.hpp>

#include <optional>

namespace {
using executor = boost::asio::io_context::executor_type;
struct count {
    int* calls;
    void operator()() const { ++*calls; }
};
}  // namespace

TEST_CASE("io/periodic_notifier: one call for each that was requested and is not due yet")
{
    boost::asio::io_context context;
    int calls = 0;
    nbd::io::periodic_notifier<executor, count> notifier{context.get_executor(), {&calls}};
    for (int i = 1; i <= 2; ++i) {
        notifier.arm();
        notifier.arm();  // it is due already
        context.run();
        context.restart();
        CHECK(calls == i);
    }
}

TEST_CASE("io/periodic_notifier: the destructor cancels the call")
{
    boost::asio::io_context context;
    int calls = 0;
    std::optional<nbd::io::periodic_notifier<executor, count>> notifier;
    notifier.emplace(context.get_executor(), count{&calls});
    notifier->arm();
    notifier.reset();
    context.run();
    CHECK(calls == 0);
}
