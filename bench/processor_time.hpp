// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstddef>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include <sys/types.h>

namespace bench {

/// A clock's time in seconds. Errors: std::system_error if the clock's process has ended.
[[nodiscard]] inline double seconds_of(::clockid_t clock)
{
    ::timespec t{};
    if (::clock_gettime(clock, &t) != 0)
        throw std::system_error{errno, std::system_category(),
                                "the server's processor time cannot be read"};
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

/// Processor time of all threads of this process but the calling one, in seconds. If the calling
/// thread is the client, this is the server's.
[[nodiscard]] inline double other_threads_seconds()
{
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID) - seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

/// The processor time of a server, in nanoseconds: of the process with all its past and present
/// threads, and of the children that exist when this object is made, because some servers fork for
/// each client.
class process_tree {
public:
    /// Errors: std::system_error if there is no such process.
    explicit process_tree(::pid_t root) { add(root); }

    /// Errors: std::system_error if one of the processes has ended.
    [[nodiscard]] double seconds() const
    {
        double sum = 0;
        for (const auto clock : clocks_)
            sum += seconds_of(clock);
        return sum;
    }

private:
    void add(::pid_t pid)
    {
        ::clockid_t clock{};
        if (const int failed = ::clock_getcpuclockid(pid, &clock); failed != 0)
            throw std::system_error{failed, std::system_category(),
                                    "there is no process " + std::to_string(pid)};
        clocks_.push_back(clock);
        const std::filesystem::path tasks = "/proc/" + std::to_string(pid) + "/task";
        std::error_code ended;
        for (const auto& task : std::filesystem::directory_iterator{tasks, ended}) {
            std::ifstream children{task.path() / "children"};
            for (::pid_t child = 0; children >> child;)
                add(child);
        }
    }

    std::vector<::clockid_t> clocks_;
};

}  // namespace bench
