// SPDX-License-Identifier: MIT
// Each thread has its own stock, so every test here starts a thread, which has none yet. It empties
// the stock that all threads share before.
#include "catch.hpp"
#include "grid/allocation_count.hpp"
#include "support/sanitizers.hpp"
#include <nbd/session/buffers/block.hpp>

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <fstream>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>
#include <sys/resource.h>

using nbd::session::block;

namespace {

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;

template <class F>
void on_another_thread(F f)
{
    std::thread{f}.join();
}
template <class F>
void on_a_thread(F f)
{
    block::free_shared_stock();
    on_another_thread(f);
}

/// The number of heap allocations of `f`.
template <class F>
std::size_t asked(F f)
{
    const auto before = grid::allocations();
    f();
    return grid::allocations() - before;
}

}  // namespace

TEST_CASE("session/buffers/block: a default-constructed block has no memory")
{
    const block nothing;
    CHECK(nothing.size() == 0);
    CHECK(nothing.data() == nullptr);
    const block of_none{0};
    CHECK(of_none.size() == 0);
    CHECK(of_none.data() == nullptr);
    CHECK(of_none.first(0).empty());
}

TEST_CASE("session/buffers/block: a block has the requested size, and blocks do not overlap")
{
    on_a_thread([] {
        std::vector<block> all;
        const std::size_t sizes[] = {1,         4 * kib - 1,   4 * kib,   4 * kib + 1, 8 * kib,
                                     8193,      16 * kib,      65535,     65536,       65537,
                                     512 * kib, 512 * kib + 1, mib,       mib + 1,     3 * mib + 5,
                                     1,         4 * kib,       128 * kib, 128 * kib};
        unsigned char mark = 0;
        for (const auto n : sizes) {
            all.emplace_back(n);
            REQUIRE(all.back().size() >= n);
            REQUIRE(all.back().first(n).size() == n);
            std::fill_n(all.back().data(), all.back().size(), std::byte{++mark});
        }
        mark = 0;
        for (const auto& b : all) {
            ++mark;
            REQUIRE(std::all_of(b.data(), b.data() + b.size(),
                                [mark](auto byte) { return byte == std::byte{mark}; }));
        }
    });
}

TEST_CASE("session/buffers/block: small blocks are rounded up by little")
{
    on_a_thread([] {
        for (std::size_t n = 4 * kib; n <= mib; n *= 2) {
            CHECK(block{n}.size() == n);
            CHECK(block{n - 1}.size() == n);
            if (n != mib) {
                CHECK(block{n + 1}.size() == 2 * n);
            }
        }
        CHECK(block{1}.size() == 4 * kib);
        CHECK(block{mib + 1}.size() == 2 * mib);
        CHECK(block{32 * mib - 1}.size() == 32 * mib);
        CHECK(block{32 * mib + 4 * kib}.size() == 33 * mib);
        CHECK(block{33 * mib + 1}.size() == 33 * mib + 4 * kib);
    });
}

TEST_CASE("session/buffers/block: a block is page-aligned, for direct I/O")
{
    on_a_thread([] {
        const block in_the_way{8 * kib};
        for (const std::size_t n : {std::size_t{1}, 4 * kib, 8 * kib, 8 * kib + 1, 16 * kib,
                                    16 * kib + 1, 100'000UL, mib, mib + 1, 2 * mib, 5 * mib + 17}) {
            CAPTURE(n);
            const block one{n};
            const block other{n};
            CHECK(reinterpret_cast<std::uintptr_t>(one.data()) % 4096 == 0);
            CHECK(reinterpret_cast<std::uintptr_t>(other.data()) % 4096 == 0);
        }
    });
}

TEST_CASE("session/buffers/block: a freed block is reused without the heap")
{
    on_a_thread([] {
        const std::size_t sizes[] = {1, 5000, 16 * kib, 100'000, mib};
        for (const auto n : sizes)
            std::ignore = block{n};
        CHECK(asked([&] {
                  for (int round = 0; round < 100; ++round)
                      for (const auto n : sizes)
                          std::ignore = block{n};
              })
              == 0);
        const auto* const before = block{64 * kib}.data();
        const block other_size{32 * kib};
        CHECK(other_size.data() != before);
        const block again{64 * kib};
        CHECK(again.data() == before);
        const block second{64 * kib};
        CHECK(second.data() != before);
    });
}

TEST_CASE("session/buffers/block: many blocks of one size are kept, and each is handed out once")
{
    on_a_thread([] {
        std::vector<block> held;
        held.reserve(64);
        for (int i = 0; i < 64; ++i)
            held.emplace_back(16 * kib);
        held.clear();
        CHECK(asked([&] {
                  for (int i = 0; i < 64; ++i)
                      held.emplace_back(16 * kib);
              })
              == 0);
        std::vector<const std::byte*> at;
        for (const auto& b : held)
            at.push_back(b.data());
        std::sort(at.begin(), at.end());
        CHECK(std::adjacent_find(at.begin(), at.end()) == at.end());
    });
}

TEST_CASE("session/buffers/block: a thread keeps what it has used, up to the limit of the program")
{
    on_a_thread([] {
        constexpr std::size_t kept = 60;  // of 1 MiB: other threads hardly have blocks now
        std::vector<block> held;
        held.reserve(2 * kept);
        const auto take = [&held](std::size_t n) {
            return asked([&held, n] {
                for (std::size_t i = 0; i < n; ++i)
                    held.emplace_back(mib);
            });
        };
        std::ignore = block{1};  // creates the stock
        CHECK(take(kept) == kept);
        held.clear();
        CHECK(take(kept) == 0);
        held.clear();
        // While there are more than 64 MiB, blocks are not kept.
        CHECK(take(2 * kept) == kept);
        held.clear();
        const auto in_stock = block::in_stock() + block::in_shared_stock();
        CHECK(in_stock <= 65 * mib);
        CHECK(in_stock >= 60 * mib);
        // The budget of a server lets the threads keep more.
        block::keep_more(64 * mib);
        std::ignore = take(2 * kept);
        held.clear();
        CHECK(take(2 * kept) == 0);
        block::keep_less(64 * mib);
    });
}

TEST_CASE("session/buffers/block: what was not needed for a time is freed by halves")
{
    on_a_thread([] {
        std::vector<block> held;
        held.reserve(64);
        for (int i = 0; i < 32; ++i)
            held.emplace_back(64 * kib);
        held.clear();
        REQUIRE(block::in_stock() == 2 * mib);
        block::free_unused();
        CHECK(block::in_stock() == 2 * mib);  // all of it was in use since the last call
        block::free_unused();
        CHECK(block::in_stock() == mib);
        for (int i = 0; i < 16; ++i)
            held.emplace_back(64 * kib);
        held.clear();
        block::free_unused();
        CHECK(block::in_stock() == mib);
    });
}

TEST_CASE("session/buffers/block: an idle thread gives its stock to the other threads")
{
    on_a_thread([] {
        const auto take = [] {
            const block first{mib};
            const block second{mib};
            const block small{4 * kib};
        };
        take();
        CHECK(block::in_stock() == 2 * mib + 4 * kib);
        block::share_stock();
        CHECK(block::in_stock() == 0);
        CHECK(block::in_shared_stock() == 2 * mib + 4 * kib);
        on_another_thread([&] {
            std::ignore = block{8 * kib};  // creates the stock
            CHECK(asked(take) == 0);
            CHECK(block::in_shared_stock() == 0);
            block::share_stock();
        });
        CHECK(asked(take) == 0);
    });
}

TEST_CASE(
    "session/buffers/block: where there are many blocks, the next thread finds those that are "
    "given back")
{
    on_a_thread([] {
        std::vector<block> held;
        held.reserve(48);
        for (int i = 0; i < 48; ++i)
            held.emplace_back(mib);
        held.clear();
        CHECK(block::in_stock() <= 17 * mib);  // a quarter of what the program keeps
        on_another_thread([&] {
            CHECK(asked([&] {
                      for (int i = 0; i < 30; ++i)
                          held.emplace_back(mib);
                  })
                  == 0);
        });
    });
}

TEST_CASE("session/buffers/block: what nobody has taken from the shared stock for ten seconds is "
          "freed")
{
    on_a_thread([] {
        const auto share = [](std::size_t n) {
            std::vector<block> held;
            for (std::size_t i = 0; i < n; ++i)
                held.emplace_back(mib);
            held.clear();
            block::share_stock();
        };
        auto now = block::seconds() + 1'000;
        share(8);
        block::look_at_shared_stock(now);  // ten seconds begin
        block::look_at_shared_stock(now + 9);
        CHECK(block::in_shared_stock() == 8 * mib);
        share(5);  // from those eight
        block::look_at_shared_stock(now + 10);
        CHECK(block::in_shared_stock() == 5 * mib);
        block::look_at_shared_stock(now + 19);
        CHECK(block::in_shared_stock() == 5 * mib);
        block::look_at_shared_stock(now + 20);
        CHECK(block::in_shared_stock() == 0);
    });
}

TEST_CASE("session/buffers/block: blocks for the longest payload are kept, larger ones are not")
{
    on_a_thread([] {
        std::ignore = block{1};  // creates the stock
        for (const auto n : {mib, mib + 1, 2 * mib, 2 * mib + 1, 32 * mib, 33 * mib}) {
            CAPTURE(n);
            CHECK(asked([n] { std::ignore = block{n}; }) == 1);
            CHECK(asked([n] { std::ignore = block{n}; }) == 0);
            block::share_stock();
            block::free_shared_stock();
        }
        CHECK(asked([] { std::ignore = block{33 * mib + 1}; }) == 1);
        CHECK(asked([] { std::ignore = block{33 * mib + 1}; }) == 1);
    });
}

TEST_CASE("session/buffers/block: the stocks of all threads together keep 64 MiB and no more")
{
    constexpr std::size_t threads = 12;
    block::free_shared_stock();
    std::barrier together{threads + 1};
    std::vector<std::thread> filling;
    for (std::size_t i = 0; i < threads; ++i)
        filling.emplace_back([&] {
            std::vector<block> held;
            held.reserve(8);
            for (int round = 0; round < 2; ++round) {
                for (int n = 0; n < 8; ++n)
                    held.emplace_back(mib);
                together.arrive_and_wait();  // all 96 exist now
                held.clear();
                together.arrive_and_wait();
                together.arrive_and_wait();
            }
        });
    const auto round = [&] {
        together.arrive_and_wait();
        together.arrive_and_wait();
    };
    round();
    // 96 blocks were freed, of which at most 65 are kept; threads of other tests may keep some too.
    const auto again = asked([&] {
        together.arrive_and_wait();
        round();
    });
    CHECK(again >= 96 - 65);
    CHECK(again <= 96 - 56);
    together.arrive_and_wait();
    for (auto& t : filling)
        t.join();
}

TEST_CASE("session/buffers/block: bytes_for is the size that a block has")
{
    on_a_thread([] {
        for (const std::size_t n : {std::size_t{0}, std::size_t{1}, 4 * kib, 4 * kib + 1, 100 * kib,
                                    mib, mib + 1, 5 * mib})
            CHECK(block{n}.size() == block::bytes_for(n));
        CHECK(block::bytes_for(mib + 1) == 2 * mib);
        CHECK(block::bytes_for(33 * mib + 1) == 33 * mib + 4 * kib);
    });
}

TEST_CASE("session/buffers/block: a move frees the memory that the target held")
{
    on_a_thread([] {
        block a{4 * kib};
        const auto* const at = a.data();
        block b{std::move(a)};
        CHECK(b.data() == at);
        CHECK(b.size() == 4 * kib);
        CHECK(a.data() == nullptr);  // NOLINT: a moved-from block is empty
        CHECK(a.size() == 0);

        block c{64 * kib};
        const auto* const large = c.data();
        c = std::move(b);
        CHECK(c.data() == at);
        CHECK(c.size() == 4 * kib);
        CHECK(b.data() == nullptr);
        CHECK(block{64 * kib}.data() == large);
        c = {};
        CHECK(c.data() == nullptr);
        CHECK(block{4 * kib}.data() == at);
    });
}

TEST_CASE("session/buffers/block: a block may be freed on another thread, which then keeps it")
{
    on_a_thread([] {
        block taken{8 * kib};
        const auto* const at = taken.data();
        on_another_thread([&taken, at] {
            taken = {};
            const block again{8 * kib};
            CHECK(again.data() == at);
        });
        // The other thread has ended and freed its stock. This thread has no block in stock.
        CHECK(asked([] { std::ignore = block{8 * kib}; }) == 1);
    });
}

TEST_CASE("session/buffers/block: blocks that threads pass to each other keep their content")
{
    std::vector<block> passed(64);
    for (int round = 0; round < 20; ++round) {
        on_a_thread([&] {
            for (std::size_t i = 0; i < passed.size(); ++i) {
                passed[i] = block{(i + 1) * kib};
                std::fill_n(passed[i].data(), passed[i].size(), static_cast<std::byte>(i));
            }
        });
        on_a_thread([&] {
            std::vector<block> own;
            for (std::size_t i = 0; i < passed.size(); ++i) {
                own.emplace_back((i + 1) * kib);
                std::fill_n(own.back().data(), own.back().size(), std::byte{0xff});
                REQUIRE(passed[i].data()[passed[i].size() - 1] == static_cast<std::byte>(i));
                if (i % 2 != 0)
                    passed[i] = {};
            }
        });
    }
    SUCCEED("all of them");
}

TEST_CASE(
    "session/buffers/block: blocks made after the end of a thread's stock come from the shared "
    "one")
{
    std::size_t asked_for = 0;
    on_a_thread([&asked_for] {
        {
            const block one{4 * kib};
            const block two{4 * kib};
        }
        // The destructors of keys run in the order of the keys, and the stock's key was created
        // first.
        ::pthread_key_t later{};
        REQUIRE(::pthread_key_create(&later,
                                     [](void* result) {
                                         for (int i = 0; i < 3; ++i)
                                             *static_cast<std::size_t*>(result) +=
                                                 asked([] { std::ignore = block{4 * kib}; });
                                     })
                == 0);
        ::pthread_setspecific(later, &asked_for);
    });
    CHECK(asked_for == 1);
    CHECK(block::in_shared_stock() == 4 * kib);
}

TEST_CASE("session/buffers/block: the first block of a thread is a single allocation")
{
    std::size_t asked_for = 0;
    on_a_thread([&asked_for] { asked_for = asked([] { const block first{4 * kib}; }); });
    CHECK(asked_for == 1);
}

#if !NBD_TEST_ASAN && !NBD_TEST_TSAN  // they reserve address space
TEST_CASE("block: a large block leaves 16 MiB of address space for what must not fail")
{
    ::rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_AS, &before) == 0);
    on_a_thread([&] {
        std::ifstream statm{"/proc/self/statm"};
        ::rlim_t pages = 0;
        REQUIRE(statm >> pages);
        const auto allow = [&](std::size_t more) {
            const ::rlimit limit{.rlim_cur = pages * 4096 + more, .rlim_max = before.rlim_max};
            REQUIRE(::setrlimit(RLIMIT_AS, &limit) == 0);
        };
        allow(12 * mib);
        CHECK_THROWS_AS(block{8 * mib}, std::bad_alloc);
        CHECK_NOTHROW(block{64 * kib});
        allow(32 * mib);
        CHECK_NOTHROW(block{8 * mib});
        REQUIRE(::setrlimit(RLIMIT_AS, &before) == 0);
    });
}
#endif
