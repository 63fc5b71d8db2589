// SPDX-License-Identifier: MIT
// This process's memory as the kernel reports it.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

#include <sys/stat.h>

namespace nbd_test {

/// Bytes of this process that are in memory as part of the mapping that holds `at`.
inline std::uint64_t resident(const void* at)
{
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    std::ifstream maps{"/proc/self/smaps"};
    bool inside = false;
    for (std::string line; std::getline(maps, line);) {
        if (line.starts_with("Rss:") && inside)
            return std::stoull(line.substr(4)) * 1024;
        const auto dash = line.find('-');
        if (line.find(' ') > dash && dash != std::string::npos && line.find(':') > dash)
            inside = address >= std::stoull(line.substr(0, dash), nullptr, 16)
                && address < std::stoull(line.substr(dash + 1), nullptr, 16);
    }
    return 0;
}

/// Bytes of memory that a memfd uses.
inline std::uint64_t committed(int file)
{
    struct stat about {};
    return ::fstat(file, &about) == 0 ? static_cast<std::uint64_t>(about.st_blocks) * 512 : 0;
}

}  // namespace nbd_test
