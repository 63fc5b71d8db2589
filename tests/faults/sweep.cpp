// SPDX-License-Identifier: MIT
#include "faults/sweep.hpp"

#include "catch.hpp"
#include "grid/allocation_count.hpp"
#include "support/sanitizers.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <new>
#include <string_view>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#if NBD_TEST_ASAN
#include <sanitizer/lsan_interface.h>
#endif

namespace faults {
namespace {

using clock = std::chrono::steady_clock;

/// After so many ends of its process in one scenario, a composition is not tried further.
constexpr int most_deaths = 10;

/// The report of the trying process to the watching one, in shared memory.
struct findings {
    static constexpr std::size_t most = 512;
    struct fault {
        std::size_t nth;
        std::array<char, 200> text;
    };

    std::atomic<std::size_t> nth{0};
    std::atomic<std::size_t> reached{0};
    std::array<char, 80> stage{};
    std::atomic<std::size_t> count{0};
    std::array<fault, most> faults{};

    void enter(const char* what) { std::snprintf(stage.data(), stage.size(), "%s", what); }
    void add(std::size_t n, const std::string& text)
    {
        const auto i = count.load();
        if (i == most)
            return;
        faults[i].nth = n;
        std::snprintf(faults[i].text.data(), faults[i].text.size(), "%s", text.c_str());
        count = i + 1;
    }
};

std::string_view variable(const char* name)
{
    const char* const value = std::getenv(name);
    return value == nullptr ? std::string_view{} : std::string_view{value};
}
/// How long a client waits for the server, in seconds. stop() may take twice as long, and one try
/// six times.
int patience()
{
    const auto value = variable("NBD_FAULTS_PATIENCE");
    return value.empty() ? 10 : std::stoi(std::string{value});
}

std::size_t open_descriptors()
{
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator{"/proc/self/fd"}, {}));
}

/// What a client's end means for the sweep.
enum class ended { well, lost };

/// Runs a client. Adds the faults that its answers show.
template <class F>
ended played(findings& to, std::size_t n, const char* who, F&& play)
{
    const auto fault = [&](const char* what) {
        to.add(n, std::string{who} + ": " + what + " (" + to.stage.data() + ')');
    };
    try {
        play();
        return ended::well;
    } catch (const wrong& e) {
        fault(e.what());
    } catch (const std::system_error& e) {
        if (e.code() == std::errc::resource_unavailable_try_again)
            fault("waits for the server in vain");
    } catch (const std::runtime_error& e) {
        const std::string_view what{e.what()};
        const auto refusals = {"the export was refused", "an option was refused", "no INFO_EXPORT"};
        if (std::find(refusals.begin(), refusals.end(), what) != refusals.end())
            return ended::well;
        if (what != "the server closed the connection")
            fault(e.what());
    }
    return ended::lost;
}

/// The search takes longer than most tries, so the short form searches once for each scenario.
void look_for_leaks([[maybe_unused]] std::size_t n, [[maybe_unused]] findings& to)
{
#if NBD_TEST_ASAN
    if (__lsan_do_recoverable_leak_check() != 0)
        to.add(n, "memory is left, of this try or of an earlier one");
#endif
}

/// What is tried: a scenario, and what fails in it. With a client `beside` it, which has begun its
/// handshake before, threads have more memory in stock, so fewer allocations are needed.
struct trial {
    const composition& server;
    const scenario& of;
    grid::step kind;
    bool beside;
};

/// Fails the nth step, once. False if the scenario has fewer steps.
bool attempt(const trial& t, std::size_t n, findings& to)
{
    const auto& s = t.of;
    ::alarm(6 * static_cast<unsigned>(patience()));
    const auto descriptors = open_descriptors();
    bool reached = false;
    told observed;
    {
        to.enter("start");
        std::unique_ptr<running> server;
        try {
            std::optional<grid::exempt_from_failures> exempt{std::in_place};
            server = t.server.make(observed, [&] {
                if (s.starts) {
                    grid::fail(t.kind, n);
                    exempt.reset();
                }
            });
        } catch (const std::exception&) {
            if (!grid::has_failed())
                throw;
        }
        const grid::exempt_from_failures exempt;
        if (server) {
            std::optional<grid::raw_client> beside;
            std::optional<grid::raw_client> stays;
            int lost = 0;
            if (t.beside) {
                beside.emplace(server->where());
                beside->greet();
            }
            to.enter("the scenario");
            if (!s.starts)
                grid::fail(t.kind, n);
            lost += played(to, n, "the client",
                           [&] {
                               if (auto left = s.play(server->where()))
                                   stays.emplace(std::move(*left));
                           })
                == ended::lost;
            if (!s.stops) {
                if (s.starts) {
                    reached = grid::has_failed();
                    grid::fail(t.kind, 0);
                }
                if (beside) {
                    to.enter("the client beside");
                    lost += played(to, n, "the client beside",
                                   [&] {
                                       const auto answers =
                                           beside->ask(nbd::protocol::option::go,
                                                       grid::raw_client::info_data("disk"));
                                       if (answers.back().type == nbd::protocol::option_reply::ack)
                                           std::ignore = beside->read(0, 512);
                                       beside.reset();
                                   })
                        == ended::lost;
                }
                if (lost > 1)
                    to.add(n, "two clients have lost their connections");
                reached = reached || grid::has_failed();
                grid::fail(t.kind, 0);
                to.enter("the next client");
                if (played(to, n, "the next client",
                           [&] {
                               grid::raw_client next{server->where()};
                               must_be_served(next);
                           })
                    == ended::lost)
                    to.add(n, "the next client was not served");
            }
            to.enter("stop");
            const auto begun = clock::now();
            server->stop();
            if (clock::now() - begun > std::chrono::seconds{2 * patience()})
                to.add(n, "stop() takes too long");
            reached = reached || grid::has_failed();
            grid::fail(t.kind, 0);
            to.enter("the destructor");
            if (const auto complaint = server->complaint(); !complaint.empty())
                to.add(n, complaint);
            server.reset();
        } else {
            reached = true;
        }
        grid::fail(t.kind, 0);
    }
    to.enter("what is left");
    if (observed.connected != observed.disconnected)
        to.add(n, "the observer has not heard of every end");
    if (open_descriptors() != descriptors)
        to.add(n, "a descriptor is left open");
    if (full())
        look_for_leaks(n, to);
    return reached;
}

/// The short form does not fail the same steps in each scenario.
std::size_t stride()
{
    const auto value = variable("NBD_FAULTS");
    return value.empty() ? 3 : std::max<std::size_t>(1, std::stoul(std::string{value}));
}

/// Runs in a child process: from the nth step on, until the scenario has no more.
[[noreturn]] void try_all(const trial& t, std::size_t n, findings& to)
{
#if !NBD_TEST_ASAN && !NBD_TEST_TSAN
    for (const int signal : {SIGSEGV, SIGABRT, SIGFPE, SIGILL, SIGBUS, SIGTERM})
        ::signal(signal, SIG_DFL);  // Catch's report would be about another process
#endif
    int missed = 0;
    try {
        // The order in which threads allocate varies, so one miss does not end the sweep.
        for (; missed < 2; n += stride()) {
            to.nth = n;
            missed = attempt(t, n, to) ? 0 : missed + 1;
            if (missed == 0)
                to.reached = n;
        }
    } catch (const std::exception& e) {
        to.add(n, std::string{"an exception where none is expected: "} + e.what());
        ::_exit(1);
    }
    look_for_leaks(n, to);
    ::_exit(0);
}

struct result {
    std::size_t reached = 0;
    std::vector<std::string> faults;
};

result watch(const trial& t, std::size_t first)
{
    void* const shared = ::mmap(nullptr, sizeof(findings), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        throw std::bad_alloc{};
    auto& found = *::new (shared) findings;
    std::size_t next = first;
    for (int deaths = 0; deaths < most_deaths; ++deaths) {
        std::cout.flush();
        const auto child = ::fork();
        if (child == 0)
            try_all(t, next, found);
        if (child < 0)
            throw std::system_error{errno, std::system_category(), "fork"};
        int status = 0;
        while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
        }
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            break;
        const auto where = std::string{" in: "} + found.stage.data();
        if (!WIFSIGNALED(status))
            found.add(found.nth, "the process ended" + where);
        else if (WTERMSIG(status) == SIGALRM)
            found.add(found.nth, "the process does not end" + where);
        else
            found.add(found.nth,
                      std::string{"the process died: "} + ::strsignal(WTERMSIG(status)) + where);
        found.reached = std::max(found.reached.load(), found.nth.load());
        next = found.nth + stride();
    }
    result r{.reached = found.reached, .faults = {}};
    for (std::size_t i = 0; i < found.count; ++i)
        r.faults.push_back("N = " + std::to_string(found.faults[i].nth) + ": "
                           + found.faults[i].text.data());
    ::munmap(shared, sizeof(findings));
    return r;
}

void sweep_one(const trial& t, std::size_t first)
{
    const auto name = t.of.name + (t.kind == grid::step::transfer ? ", transfers" : "")
        + (t.beside ? ", with a client beside it" : "");
    if (const auto at = variable("NBD_FAULTS_AT"); !at.empty()) {
        findings found;
        CHECK(attempt(t, std::stoul(std::string{at}), found));
        for (std::size_t i = 0; i < found.count; ++i)
            std::cout << "FAULT: " << found.faults[i].text.data() << std::endl;
        return;
    }
    const auto r = watch(t, first);
    if (full())
        std::cout << "| " << t.server.name << " | " << name << " | " << r.reached << " | "
                  << r.faults.size() << " |" << std::endl;
    for (const auto& fault : r.faults)
        std::cout << "FAULT: " << t.server.name << ", " << name << ", " << fault << std::endl;
    INFO(t.server.name << ", " << name);
    CHECK(r.faults.empty());
}

}  // namespace

bool full()
{
    return stride() == 1;
}

void sweep(const composition& c)
{
    grid::raw_client::patience_in_seconds = patience();
    std::size_t index = 0;
    for (const auto& s : scenarios()) {
        ++index;
        if (s.name.find(variable("NBD_FAULTS_SCENARIO")) == std::string::npos)
            continue;
        for (const bool beside : {false, true}) {
            const bool alone = s.starts || s.stops;
            // The short form alternates.
            if (beside && alone)
                continue;
            if (!full() && !alone && beside != (index % 2 != 0))
                continue;
            for (const auto kind : {grid::step::allocation, grid::step::transfer}) {
                // A start has no transfers. The short form takes every third scenario.
                const bool skipped = s.starts || (!full() && index % 3 != 0);
                if (kind == grid::step::allocation || !skipped)
                    sweep_one({c, s, kind, beside}, full() ? 1 : 1 + index % stride());
            }
        }
    }
}

}  // namespace faults
