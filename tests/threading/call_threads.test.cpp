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

struct meeting_point {
    std::binary_semaphore here{0};
    std::binary_semaphore go{0};
};
/// Records its name. One with a meeting point waits there until the test releases it.
struct named : offloaded_call {
    named(char n, std::string& s, meeting_point* w = nullptr) : name{n}, story{s}, waits_at{w}
    {
        run = [](offloaded_call& call) noexcept {
            auto& self = static_cast<named&>(call);
            if (self.waits_at != nullptr) {
                self.waits_at->here.release();
                self.waits_at->go.acquire();
            }
            self.story += self.name;
        };
    }
    char name;
    std::string& story;
    meeting_point* waits_at;
};

}  // namespace

TEST_CASE("threading/call_threads: the calls of one client start in order")
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

TEST_CASE("threading/call_threads: clients take turns, whatever the number of their calls")
{
    std::string story;
    std::list<named> calls;
    offloaded_calls greedy;
    offloaded_calls modest;
    offloaded_calls late;
    meeting_point first;
    call_threads threads{1};
    threads.offload(greedy, calls.emplace_back('g', story, &first));
    first.here.acquire();
    for (int i = 0; i < 5; ++i)
        threads.offload(greedy, calls.emplace_back('g', story));
    for (int i = 0; i < 2; ++i)
        threads.offload(modest, calls.emplace_back('m', story));
    threads.offload(late, calls.emplace_back('l', story));
    first.go.release();
    threads.end();
    CHECK(story == "ggmlgmggg");
}

TEST_CASE("threading/call_threads: the allowed number of calls run at the same time, and end() "
          "waits for them")
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
            self.all->arrive_and_wait();  // waits forever if there are fewer threads
        };
        threads.offload(client, call);
    }
    threads.end();
    CHECK(inside == most);
    threads.end();  // a second call has no effect
}
