// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/transport/tcp_transport.hpp>
#include <nbd/transport/unix_transport.hpp>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>

#include <stdlib.h>

namespace bench {

/// The address of a server during a benchmark.
template <class Transport>
class place;

template <>
class place<nbd::unix_transport> {
public:
    place()
    {
        auto name = (std::filesystem::temp_directory_path() / "nbd-bench-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr)
            throw std::system_error{errno, std::system_category(), "mkdtemp"};
        directory_ = name;
    }
    place(const place&) = delete;
    place& operator=(const place&) = delete;
    ~place()
    {
        std::error_code ignored;
        std::filesystem::remove_all(directory_, ignored);
    }

    [[nodiscard]] nbd::unix_transport::settings settings() const
    {
        return {.path = (directory_ / "sock").string()};
    }

private:
    std::filesystem::path directory_;
};

template <>
class place<nbd::tcp_transport> {
public:
    [[nodiscard]] nbd::tcp_transport::settings settings() const
    {
        return {.address = "127.0.0.1", .port = 0};
    }
};

}  // namespace bench
