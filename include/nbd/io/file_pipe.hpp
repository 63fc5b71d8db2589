// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace nbd::io {

/// A pipe that carries a part of a file to a socket without a copy in user space. The content is
/// read from the file when the pipe is filled, so that a disk error is known before the reply
/// header is sent.
class file_pipe {
public:
    file_pipe() = default;
    file_pipe(const file_pipe&) = delete;
    file_pipe& operator=(const file_pipe&) = delete;
    ~file_pipe() { close(); }

    /// Prepares the pipe to be filled again. Requires that the content was sent or dropped.
    void begin() noexcept
    {
        if (spoiled_)
            close();
        used_pages_ = 0;
    }

    /// Drops the content since begin(): it will not be sent.
    void drop() noexcept { spoiled_ = spoiled_ || used_pages_ != 0; }

    /// Appends `n` bytes of a file. *Returns* false on failure; a read of the same bytes then gives
    /// the error.
    [[nodiscard]] bool fill(int file, std::uint64_t offset, std::size_t n) noexcept
    {
        if (spoiled_ || unable_ || !open())
            return false;
        const auto pages = (offset % page + n + page - 1) / page;
        if (pages > capacity_ / page - used_pages_)
            return false;
        used_pages_ += static_cast<std::size_t>(pages);
        for (auto at = static_cast<::off64_t>(offset); n != 0;) {
            const auto done = ::splice(file, &at, ends_[1], nullptr, n, SPLICE_F_NONBLOCK);
            if (done < 0 && errno == EINTR)
                continue;
            if (done <= 0) {
                // EINVAL: the file system cannot splice. Others: the system refuses the call.
                unable_ = done < 0
                    && (errno == EINVAL || errno == EPERM || errno == ENOSYS
                        || errno == EOPNOTSUPP);
                spoiled_ = true;
                return false;
            }
            n -= static_cast<std::size_t>(done);
        }
        return true;
    }

    /// Whether there is content since begin() that was not dropped.
    [[nodiscard]] bool in_use() const noexcept { return used_pages_ != 0 && !spoiled_; }

    /// The end to read from.
    [[nodiscard]] int descriptor() const noexcept { return ends_[0]; }

private:
    static constexpr std::size_t page = 4096;
    static constexpr int largest = 1 << 20;  ///< bytes that an unprivileged process may ask for

    [[nodiscard]] bool open() noexcept
    {
        if (ends_[0] >= 0)
            return true;
        if (::pipe2(ends_, O_CLOEXEC) != 0) {
            ends_[0] = ends_[1] = -1;
            return false;
        }
        std::ignore =
            ::fcntl(ends_[1], F_SETPIPE_SZ, largest);  // on failure the default size stays
        const int size = ::fcntl(ends_[1], F_GETPIPE_SZ);
        capacity_ = size > 0 ? static_cast<std::size_t>(size) : page;
        return true;
    }
    void close() noexcept
    {
        for (int& end : ends_)
            if (end >= 0)
                ::close(std::exchange(end, -1));
        spoiled_ = false;
    }

    int ends_[2] = {-1, -1};
    std::size_t capacity_ = 0;    ///< bytes; each page of the file takes one page
    std::size_t used_pages_ = 0;  ///< since begin()
    bool spoiled_ = false;        ///< holds bytes that will not be sent
    bool unable_ = false;         ///< the file cannot be spliced
};

}  // namespace nbd::io
