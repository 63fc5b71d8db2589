// SPDX-License-Identifier: MIT
#pragma once

#if !__has_include(<liburing.h>)
#error "nbd::uring_file_backend needs liburing: install liburing-dev, and link with -luring"
#else

#include <nbd/backend/file_device.hpp>
#include <nbd/backend/supported.hpp>
#include <nbd/backend/uring_async.hpp>
#include <nbd/backend/uring_operation.hpp>
#include <nbd/backend/uring_service.hpp>
#include <nbd/concepts/backend.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/uio.h>

namespace nbd {

/// A backend for a regular file or a block device, as file_backend, that uses io_uring. A request
/// that waits for the device holds no thread. Each io_context that awaits its calls has one
/// io_uring. Data in the page cache are read by the call itself. A read past the end of a file
/// that another program has truncated fails with EIO.
///
/// Overlapping requests in flight at the same time leave a mixture of their data, as on a real
/// disk.
/// *Thread safety*: parallel.
/// *Cancellation*: a cancelled call ends with std::errc::operation_canceled; a part of it may be
/// done.
/// *Lifetime*: spans must stay valid until the call completes. The executor's context must be an
/// io_context.
template <class Executor, class Request = uring_request>
class basic_uring_file_backend final {
    using token = boost::asio::use_awaitable_t<Executor>;

public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool cancellable = true;
    static constexpr bool multi_conn = true;
    static constexpr bool fast_zero = true;
    static constexpr bool fills_reads = true;

    using awaited = boost::asio::awaitable<failure, Executor>;

    /// *Errors*: std::system_error. Its text says that the kernel refuses io_uring, or names the
    /// path and what was expected there.
    explicit basic_uring_file_backend(const std::string& path, const file_settings& s = {})
        : device_{(uring_service::probe(), path), s}
    {
    }

    [[nodiscard]] std::uint64_t size() const noexcept { return device_.size(); }
    std::uint64_t refresh_size() noexcept { return device_.refresh_size(); }
    [[nodiscard]] nbd::block_sizes block_sizes() const noexcept { return device_.block_sizes(); }
    [[nodiscard]] nbd::abilities abilities() const noexcept { return device_.abilities(); }

    awaited read(std::uint64_t offset, std::span<std::byte> to)
    {
        if (!device_.aligned(to.data()))
            return read_bounced(offset, to);
        const auto now = device_.read_now(offset, to);
        if (now == to.size())
            return completed({});
        return async_uring<failure>(
            Request::read(device_.descriptor(), offset + now, to.subspan(now)), token{});
    }
    awaited write(std::uint64_t offset, std::span<const std::byte> from, write_flags flags = {})
    {
        if (device_.read_only())
            return completed(file_failure(EROFS));
        if (!device_.aligned(from.data()))
            return write_bounced(offset, from, flags);
        if (flags.fua)
            return write_durably(offset, from);
        return async_uring<failure>(Request::write(device_.descriptor(), offset, from, 0), token{});
    }
    awaited flush()
    {
        if (device_.read_only())
            co_return failure{};
        if (auto earlier = device_.sync_state())
            co_return earlier;
        const auto answer =
            co_await async_uring<uring_answer>(Request::sync(device_.descriptor()), token{});
        if (!answer.code)
            co_return device_.sync_succeeded();
        co_return lost_data(answer) ? device_.sync_failed(answer.code.value())
                                    : for_client(answer.code);
    }

    awaited trim(std::uint64_t offset, std::uint64_t length)
    {
        if (device_.read_only())
            co_return file_failure(EROFS);
        const auto [first, last] = device_.whole_sectors(offset, length);
        if (first >= last)
            co_return failure{};
        const auto error = co_await allocate(punches_, punch, first, last - first);
        if (!is_impossible(error))
            co_return for_client(error);
        // Advice: it succeeds without effect where the system cannot do it. A device may support
        // discard and no holes; io_uring has no discard, so the call itself carries it out.
        co_return device_.is_block_device() ? device_.trim(first, last - first) : failure{};
    }
    awaited write_zeroes(std::uint64_t offset, std::uint64_t length, zero_flags flags)
    {
        if (device_.read_only())
            co_return file_failure(EROFS);
        if (length == 0)
            co_return failure{};
        if (!device_.in_sectors(offset, length))
            co_return std::make_error_code(std::errc::not_supported);
        if (!flags.no_hole) {
            const auto error = co_await allocate(punches_, punch, offset, length);
            if (!is_impossible(error))
                co_return error ? for_client(error) : device_.zeroed_to(offset + length);
        }
        // With `fast`, not on a device, which may have to write the zeroes.
        if (!device_.is_block_device() || !flags.fast) {
            const auto error = co_await allocate(zeroes_, zero, offset, length);
            if (!is_impossible(error))
                co_return error ? for_client(error) : device_.zeroed_to(offset + length);
        }
        co_return std::make_error_code(std::errc::not_supported);
    }
    awaited cache(std::uint64_t offset, std::uint64_t length)
    {
        while (length != 0 && !device_.direct()) {
            const auto part = std::min(length, std::uint64_t{1} << 30);
            const auto error =
                co_await submit(Request::will_need(device_.descriptor(), offset, part));
            if (error)
                co_return is_impossible(error) ? failure{} : for_client(error);
            offset += part;
            length -= part;
        }
        co_return failure{};
    }
    /// Asks the file system in the call itself, because its tables are usually in memory. While the
    /// file system is busy with them (it punches a large hole, for example), the clients of this
    /// thread wait.
    awaited extents(std::uint64_t offset, std::uint64_t length, extent_list& to)
    {
        co_return device_.extents(offset, length, to);
    }
    failure resize(std::uint64_t size) { return device_.resize(size); }

private:
    static constexpr int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    static constexpr int zero = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

    static awaited completed(failure outcome) { co_return outcome; }

    static auto submit(const uring_request& request)
    {
        return async_uring<std::error_code>(request, token{});
    }
    static bool is_unsupported(const std::error_code& error) noexcept
    {
        return file_device::is_unsupported(error.value());
    }
    static bool is_impossible(const std::error_code& error) noexcept
    {
        return file_device::is_impossible(error.value());
    }
    /// Whether the answer reports lost data. A sync that was cancelled or not begun does not: the
    /// next sync does its work.
    static bool lost_data(const uring_answer& answer) noexcept
    {
        return answer.begun && answer.code && answer.code != std::errc::operation_canceled;
    }
    /// Converts the system's error to the failure for the client. A cancellation remains one.
    static failure for_client(const std::error_code& error)
    {
        return error && error != std::errc::operation_canceled ? file_failure(error.value())
                                                               : error;
    }
    awaited write_durably(std::uint64_t offset, std::span<const std::byte> from)
    {
        if (auto earlier = device_.sync_state())
            co_return earlier;
        const auto answer = co_await async_uring<uring_answer>(
            Request::write(device_.descriptor(), offset, from, RWF_DSYNC), token{});
        if (!answer.code)
            co_return device_.sync_succeeded();
        if (!lost_data(answer))
            co_return for_client(answer.code);
        // Not awaited: the await of a client that has left is cancelled, and the failure must be
        // recorded for the other clients.
        if (!is_impossible(answer.code))
            co_return device_.durable_write_failed(answer.code.value(), offset, from);
        // RWF_DSYNC is not supported, or not for this write.
        if (auto refused = co_await async_uring<failure>(
                Request::write(device_.descriptor(), offset, from, 0), token{}))
            co_return refused;
        co_return co_await flush();
    }

    /// Makes a call that this file may not support. Once it was found unsupported, it is not made
    /// again.
    boost::asio::awaitable<std::error_code, Executor>
    allocate(supported& can, int mode, std::uint64_t offset, std::uint64_t length)
    {
        if (!can)
            co_return std::make_error_code(std::errc::not_supported);
        const auto error =
            co_await submit(Request::allocate(device_.descriptor(), mode, offset, length));
        if (is_unsupported(error))
            can.set_unsupported();
        co_return error;
    }

    struct free_memory {
        void operator()(std::byte* p) const noexcept { std::free(p); }
    };
    /// Allocates `n` bytes that are aligned for direct I/O, for a span that is not.
    [[nodiscard]] std::unique_ptr<std::byte[], free_memory> allocate_aligned(std::size_t n) const
    {
        const std::size_t line = device_.memory_alignment();
        void* const p = std::aligned_alloc(line, (n + line - 1) / line * line);
        if (p == nullptr)
            throw std::bad_alloc{};
        return std::unique_ptr<std::byte[], free_memory>{static_cast<std::byte*>(p)};
    }
    awaited read_bounced(std::uint64_t offset, std::span<std::byte> to)
    {
        const auto memory = allocate_aligned(to.size());
        auto failed = co_await read(offset, std::span{memory.get(), to.size()});
        if (!failed)
            std::copy_n(memory.get(), to.size(), to.data());
        co_return failed;
    }
    awaited write_bounced(std::uint64_t offset, std::span<const std::byte> from, write_flags flags)
    {
        const auto memory = allocate_aligned(from.size());
        std::copy_n(from.data(), from.size(), memory.get());
        co_return co_await write(offset, std::span<const std::byte>{memory.get(), from.size()},
                                 flags);
    }

    file_device device_;
    supported punches_;
    supported zeroes_;
};

/// For policies with a private io_context for each thread (strand_pool, per_client_threads), or for
/// an io_context of the program that a single thread runs.
using uring_file_backend = basic_uring_file_backend<boost::asio::io_context::executor_type>;

}  // namespace nbd

#endif
