// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/threading/call_threads.hpp>

#include <atomic>
#include <latch>
#include <list>
#include <mutex>
#include <semaphore>
#include <set>
#include <string>
#include <thread>

using nbd::offloaded_call;
using nbd::offloaded_calls;
using nbd::threading::call_threads;

namespace {

/// Writes its name down; the first of them waits before it does.
struct named : offloaded_call {
    named(char n, std::string& s, std::binary_semaphore* w = nullptr)
        : name{n}, story{s}, waits_for{w}
    {
        run = [](offloaded_call& call) noexcept {
            auto& self = static_cast<named&>(call);
            if (self.waits_for != nullptr)
                self.waits_for->acquire();
            self.story += self.name;
        };
    }
    char name;
    std::string& story;
    std::binary_semaphore* waits_for;
};

}  // namespace

TEST_CASE("threading/call_threads: calls of one client are begun in their order")
{
    std::string story;
    std::list<named> calls;
    offloaded_calls client;
    call_threads threads{1};
    for (char name = 'a'; name <= 'z'; ++name)
        threads.offload(client, calls.emplace_back(name, story));
    threads.end();
    CHECK(story == "abcdefghijklmnopqrstuvwxyz");
    CHECK(client.calls.empty());
}

TEST_CASE("threading/call_threads: clients take turns, however much each has called")
{
    std::string story;
    std::list<named> calls;
    offloaded_calls greedy;
    offloaded_calls modest;
    offloaded_calls late;
    std::binary_semaphore go{0};
    call_threads threads{1};
    threads.offload(greedy, calls.emplace_back('g', story, &go));
    for (int i = 0; i < 5; ++i)
        threads.offload(greedy, calls.emplace_back('g', story));
    for (int i = 0; i < 2; ++i)
        threads.offload(modest, calls.emplace_back('m', story));
    threads.offload(late, calls.emplace_back('l', story));
    go.release();
    threads.end();
    // Whether the first had been begun already when the others came is the scheduler's to say.
    CHECK((story == "ggmlgmggg" || story == "gmlgmgggg"));
}

TEST_CASE(
    "threading/call_threads: as many at a time as there may be threads, and each ends as asked")
{
    constexpr int most = 4;
    struct meeting : offloaded_call {
        std::latch* all = nullptr;
        const call_threads* threads = nullptr;
        std::atomic<int>* inside = nullptr;
    };
    std::latch all{most};
    std::atomic<int> inside{0};
    std::list<meeting> calls;
    offloaded_calls client;
    call_threads threads{most};
    CHECK_FALSE(threads.runs_here());
    for (int i = 0; i < most; ++i) {
        auto& call = calls.emplace_back();
        call.all = &all;
        call.threads = &threads;
        call.inside = &inside;
        call.run = [](offloaded_call& c) noexcept {
            auto& self = static_cast<meeting&>(c);
            *self.inside += self.threads->runs_here() ? 1 : 0;
            self.all->arrive_and_wait();  // for ever, were there fewer threads
        };
        threads.offload(client, call);
    }
    threads.end();
    CHECK(inside == most);
    threads.end();  // once more changes nothing
}
