// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/stored_handler.hpp>

#include <memory>
#include <stdexcept>

TEST_CASE("io/stored_handler: a handler is called once, and may store the next one")
{
    nbd::io::stored_handler<int> stored;
    CHECK_FALSE(stored);
    int sum = 0;
    stored.store([&](int n) {
        sum += n;
        stored.store([&](int m) { sum += 10 * m; });
    });
    CHECK(stored);
    stored.call(1);
    CHECK(sum == 1);
    CHECK(stored);
    stored.call(2);
    CHECK(sum == 21);
    CHECK_FALSE(stored);
}

TEST_CASE("io/stored_handler: a handler that is not called is destroyed with it")
{
    auto owned = std::make_shared<int>(0);
    {
        nbd::io::stored_handler<> stored;
        stored.store([owned] {});
        CHECK(owned.use_count() == 2);
        stored.destroy();
        CHECK(owned.use_count() == 1);
        stored.store([owned] {});
    }
    CHECK(owned.use_count() == 1);
}

TEST_CASE("io/stored_handler: the call may destroy it")
{
    auto stored = std::make_unique<nbd::io::stored_handler<>>();
    bool called = false;
    stored->store([&] {
        stored.reset();
        called = true;
    });
    stored->call();
    CHECK(called);
}

TEST_CASE("io/initiate: an exception is told, and the object is known to what it destroys")
{
    const void* seen = nullptr;
    struct handler {
        const void*& to;
        ~handler() { to = nbd::io::initiating; }
    };
    int object = 0;
    CHECK_FALSE(nbd::io::initiate(&object, [&] {
        const handler h{seen};
        throw std::runtime_error{"no"};
    }));
    CHECK(seen == &object);
    CHECK(nbd::io::initiating == nullptr);
    CHECK(nbd::io::initiate(&object, [] {}));
}
