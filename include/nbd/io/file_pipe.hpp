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

/// A pipe that a part of a file goes through on its way to a socket, without being copied. What is in
/// the pipe has been read: a disk that fails shows before anybody was promised its data.
class file_pipe {
public:
    file_pipe() = default;
    file_pipe(const file_pipe&) = delete;
    file_pipe& operator=(const file_pipe&) = delete;
    ~file_pipe() { close(); }

    /// What was taken before has been sent, or is not wanted.
    void begin() noexcept
    {
        if (spoiled_)
            close();
        taken_pages_ = 0;
    }

    /// What was taken since then will not be sent.
    void drop() noexcept { spoiled_ = spoiled_ || taken_pages_ != 0; }

    /// Takes `n` bytes of a file, behind what was taken since begin(). False where that cannot be done,
    /// for whatever reason: reading them tells it.
    [[nodiscard]] bool take(int file, std::uint64_t offset, std::size_t n) noexcept
    {
        if (spoiled_ || unable_ || !open())
            return false;
        const auto pages = (offset % page + n + page - 1) / page;
        if (pages > capacity_ / page - taken_pages_)
            return false;
        taken_pages_ += static_cast<std::size_t>(pages);
        for (auto at = static_cast<::off64_t>(offset); n != 0;) {
            const auto done = ::splice(file, &at, ends_[1], nullptr, n, SPLICE_F_NONBLOCK);
            if (done < 0 && errno == EINTR)
                continue;
            if (done <= 0) {
                unable_ = done < 0 && errno == EINVAL;  // a file system that cannot do it
                spoiled_ = true;
                return false;
            }
            n -= static_cast<std::size_t>(done);
        }
        return true;
    }

    /// Where what was taken comes out.
    [[nodiscard]] int descriptor() const noexcept { return ends_[0]; }

private:
    static constexpr std::size_t page = 4096;
    static constexpr int largest = 1 << 20;  ///< bytes, that everybody may have

    [[nodiscard]] bool open() noexcept
    {
        if (ends_[0] >= 0)
            return true;
        if (::pipe2(ends_, O_CLOEXEC) != 0) {
            ends_[0] = ends_[1] = -1;
            return false;
        }
        std::ignore = ::fcntl(ends_[1], F_SETPIPE_SZ, largest);  // or what it has by itself
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
    std::size_t capacity_ = 0;     ///< bytes, in pages of which each holds one of the file's
    std::size_t taken_pages_ = 0;  ///< since begin()
    bool spoiled_ = false;         ///< a part of something is in it that will not be sent
    bool unable_ = false;
};

}  // namespace nbd::io
