// SPDX-License-Identifier: MIT
// The disks that the sweep serves. All hold `content()` until a client writes.
#pragma once

#include <nbd/backend/file_backend.hpp>
#include <nbd/backend/mem_backend.hpp>
#include <nbd/vocabulary/extent_list.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <tuple>
#include <vector>

#include <unistd.h>

namespace faults {

inline constexpr std::uint64_t mib = 1 << 20;
inline constexpr std::uint64_t disk_bytes = 4 * mib;
/// Data and holes take turns, each this long.
inline constexpr std::uint64_t stripe = 128 << 10;

/// What a new disk holds.
[[nodiscard]] inline const std::vector<std::byte>& content()
{
    static const auto made = [] {
        std::vector<std::byte> all(disk_bytes);
        for (std::uint64_t i = 0; i < disk_bytes; ++i)
            if (i / stripe % 2 == 0)
                all[i] = static_cast<std::byte>(1 + (i * 7 + i / 4096) % 251);
        return all;
    }();
    return made;
}

/// Calls `write(offset, span)` for the data of a new disk.
template <class Write>
void fill(Write write)
{
    for (std::uint64_t at = 0; at < disk_bytes; at += 2 * stripe)
        write(at, std::span{content()}.subspan(at, stripe));
}

/// A file with the content of a disk. The destructor removes its name.
class unnamed_file {
public:
    unnamed_file() : path_{"/tmp/nbd-faults-" + std::to_string(::getpid())}
    {
        nbd::file_backend file{path_, {.create = disk_bytes}};
        fill([&](std::uint64_t at, auto data) { std::ignore = file.write(at, data); });
    }
    unnamed_file(const unnamed_file&) = delete;
    unnamed_file& operator=(const unnamed_file&) = delete;
    ~unnamed_file() { ::unlink(path_.c_str()); }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

private:
    std::string path_;
};

/// Copies into memory that the session provides.
class copying {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    std::error_code read(std::uint64_t offset, std::span<std::byte> to) noexcept
    {
        std::copy_n(place(offset), to.size(), to.begin());
        return {};
    }
    std::error_code write(std::uint64_t offset, std::span<const std::byte> from) noexcept
    {
        std::copy(from.begin(), from.end(), place(offset));
        return {};
    }
    std::error_code flush() noexcept { return {}; }
    std::error_code trim(std::uint64_t, std::uint64_t) noexcept { return {}; }
    std::error_code extents(std::uint64_t offset, std::uint64_t, nbd::extent_list& to)
    {
        using namespace nbd::protocol::state_flag;
        for (bool more = true; more;) {
            const auto n = stripe - offset % stripe;
            more = to.add(n, offset / stripe % 2 == 0 ? 0 : hole | zero);
            offset += n;
        }
        return {};
    }
    std::error_code resize(std::uint64_t size)
    {
        size_ = size;
        return {};
    }

private:
    [[nodiscard]] std::vector<std::byte>::iterator place(std::uint64_t offset)
    {
        return bytes_.begin() + static_cast<std::ptrdiff_t>(offset);
    }
    std::vector<std::byte> bytes_ = content();
    std::uint64_t size_ = disk_bytes;
};

/// The same, with calls that may block; one at a time for all clients together.
class blocking : public copying {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::serialize_all;
    static constexpr bool blocks = true;
};

/// The same, awaited: each call goes once through the executor; one at a time for all clients
/// together.
template <class Executor>
class awaited_in_turn {
public:
    using task = boost::asio::awaitable<std::error_code, Executor>;

    [[nodiscard]] std::uint64_t size() const noexcept { return disk_.size(); }
    task read(std::uint64_t offset, std::span<std::byte> to)
    {
        co_await hop();
        co_return disk_.read(offset, to);
    }
    task write(std::uint64_t offset, std::span<const std::byte> from)
    {
        co_await hop();
        co_return disk_.write(offset, from);
    }
    task flush()
    {
        co_await hop();
        co_return disk_.flush();
    }
    task trim(std::uint64_t offset, std::uint64_t length)
    {
        co_await hop();
        co_return disk_.trim(offset, length);
    }
    task extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)
    {
        co_await hop();
        co_return disk_.extents(offset, length, to);
    }

protected:
    copying disk_;

private:
    static boost::asio::awaitable<void, Executor> hop()
    {
        co_await boost::asio::post(co_await boost::asio::this_coro::executor,
                                   boost::asio::use_awaitable_t<Executor>{});
    }
};

/// The same, many calls at a time.
template <class Executor>
class awaited : public awaited_in_turn<Executor> {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    std::error_code resize(std::uint64_t size) { return this->disk_.resize(size); }
};

// --- kinds of disks: a backend for an executor, and how it is added to an export set ------------

template <template <class> class Backend>
struct kind_of {
    template <class Executor>
    using backend = Backend<Executor>;
    template <class Exports>
    static void add(Exports& exports)
    {
        exports.emplace("disk", {.allow_resize = true});
    }
};
template <class>
using copying_on = copying;
template <class>
using blocking_on = blocking;

struct copied : kind_of<copying_on> {
    static constexpr auto name = "copied";
};
struct blocked : kind_of<blocking_on> {
    static constexpr auto name = "blocking";
};
/// An operation that such a disk awaits may throw in its initiation. Asio passes that exception to
/// the caller of the handler that resumed the disk: to the program's run().
struct waiting : kind_of<awaited> {
    static constexpr bool may_throw = true;
    static constexpr auto name = "awaited";
};
struct waiting_in_turn : kind_of<awaited_in_turn> {
    static constexpr bool may_throw = true;
    static constexpr auto name = "awaited in turn";
};
/// Lends its memory.
struct lent {
    static constexpr auto name = "mem_backend";
    template <class>
    using backend = nbd::mem_backend;
    template <class Exports>
    static void add(Exports& exports)
    {
        const auto disk = exports.emplace("disk", {.allow_resize = true}, disk_bytes);
        fill([&](std::uint64_t at, auto data) { std::ignore = disk->write(at, data); });
    }
};
/// Promises `blocks`: served in order on a thread of its client, in a window on the pool.
struct in_file {
    static constexpr auto name = "file_backend";
    template <class>
    using backend = nbd::file_backend;
    template <class Exports>
    static void add(Exports& exports)
    {
        const unnamed_file file;
        exports.emplace("disk", {.allow_resize = true}, file.path());
    }
};

}  // namespace faults
