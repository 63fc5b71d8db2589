// SPDX-License-Identifier: MIT
#pragma once

#if !__has_include(<liburing.h>)
#error "nbd::uring_file_backend needs liburing: install liburing-dev, and link with -luring"
#else

#include <nbd/backend/file_device.hpp>
#include <nbd/backend/uring_async.hpp>
#include <nbd/backend/uring_operation.hpp>
#include <nbd/backend/uring_service.hpp>
#include <nbd/concepts/backend.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <atomic>
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

/// A regular file or a block device, as file_backend serves it, whose requests wait in the kernel
/// and in no thread: each io_context that awaits them has an io_uring. What is in the page cache is
/// read at once, by the call itself. A read past a file's end, which somebody has cut off, is EIO.
///
/// As on a real disk, what overlapping requests in flight at the same time leave is mixed. What was
/// cancelled ends with std::errc::operation_canceled, and may be done in part.
/// Spans must stay until the outcome is there. The executor's context must be an io_context.
/// Thread safety: parallel.
template <class Executor, class Request = uring_request>
class basic_uring_file_backend {
    using token = boost::asio::use_awaitable_t<Executor>;

public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool cancellable = true;
    static constexpr bool multi_conn = true;
    static constexpr bool fast_zero = true;
    static constexpr bool fills_reads = true;

    using awaited = boost::asio::awaitable<failure, Executor>;

    /// Errors: std::system_error, which says so where the kernel refuses io_uring, and otherwise names
    /// the path and says what was expected there.
    explicit basic_uring_file_backend(const std::string& path, const file_settings& s = {})
        : device_{(uring_service::probe(), path), s}
    {
    }

    [[nodiscard]] std::uint64_t size() const noexcept { return device_.size(); }
    [[nodiscard]] nbd::block_sizes block_sizes() const noexcept { return device_.block_sizes(); }

    awaited read(std::uint64_t offset, std::span<std::byte> to)
    {
        if (!device_.aligned(to.data()))
            return read_aside(offset, to);
        const auto now = read_now(offset, to);
        if (now == to.size())
            return at_once({});
        return async_uring<failure>(
            Request::read(device_.descriptor(), offset + now, to.subspan(now)), token{});
    }
    awaited write(std::uint64_t offset, std::span<const std::byte> from, write_flags flags = {})
    {
        if (device_.read_only())
            return at_once(file_failure(EROFS));
        if (!device_.aligned(from.data()))
            return write_aside(offset, from, flags);
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
        co_return has_failed(answer) ? device_.sync_failed(answer.code.value())
                                     : heard(answer.code);
    }

    awaited trim(std::uint64_t offset, std::uint64_t length)
    {
        if (device_.read_only())
            co_return file_failure(EROFS);
        const auto [first, last] = device_.whole_sectors(offset, length);
        if (first >= last)
            co_return failure{};
        const auto said = co_await allocate(punches_, punch, first, last - first);
        if (!cannot(said))
            co_return heard(said);
        // Advice: where the system cannot do it, nothing happens. A device may discard what it cannot make a
        // hole of, though no ring can ask for that.
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
            const auto said = co_await allocate(punches_, punch, offset, length);
            if (!cannot(said))
                co_return heard(said);
        }
        // A device may have to write them.
        if (!device_.is_block_device() || !flags.fast) {
            const auto said = co_await allocate(zeroes_, zero, offset, length);
            if (!cannot(said))
                co_return heard(said);
        }
        co_return std::make_error_code(std::errc::not_supported);
    }
    awaited cache(std::uint64_t offset, std::uint64_t length)
    {
        while (length != 0 && !device_.direct()) {
            const auto part = std::min(length, std::uint64_t{1} << 30);
            const auto said = co_await ask(Request::will_need(device_.descriptor(), offset, part));
            if (said)
                co_return is_lacking(said) ? failure{} : heard(said);
            offset += part;
            length -= part;
        }
        co_return failure{};
    }
    /// Asks the file system in the call itself: its tables are in memory as a rule. While it is busy with
    /// them (it punches a large hole, say), the clients of this thread wait.
    awaited extents(std::uint64_t offset, std::uint64_t length, extent_list& to)
    {
        co_return device_.extents(offset, length, to);
    }
    failure resize(std::uint64_t size) { return device_.resize(size); }

private:
    static constexpr int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    static constexpr int zero = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

    /// What a file may turn out not to have.
    class ability {
    public:
        ability() = default;
        ability(ability&& other) noexcept : there_{other.there_.load()} {}
        ability& operator=(ability&& other) noexcept
        {
            there_ = other.there_.load();
            return *this;
        }
        explicit operator bool() const noexcept { return there_.load(std::memory_order_relaxed); }
        void is_lacking() noexcept { there_.store(false, std::memory_order_relaxed); }

    private:
        std::atomic<bool> there_ = true;
    };

    static awaited at_once(failure said) { co_return said; }

    static auto ask(const uring_request& request)
    {
        return async_uring<std::error_code>(request, token{});
    }
    static bool is_lacking(const std::error_code& said) noexcept
    {
        return file_device::is_lacking(said.value());
    }
    static bool cannot(const std::error_code& said) noexcept
    {
        return file_device::cannot(said.value());
    }
    /// Not if it was called off, or never begun: then the next sync will do its work.
    static bool has_failed(const uring_answer& answer) noexcept
    {
        return answer.begun && answer.code && answer.code != std::errc::operation_canceled;
    }
    /// What the system said, as clients should hear it.
    static failure heard(const std::error_code& said)
    {
        return said && said != std::errc::operation_canceled ? file_failure(said.value()) : said;
    }
    /// How many bytes the page cache had, from the first on; it is not waited for.
    std::size_t read_now(std::uint64_t offset, std::span<std::byte> to) noexcept
    {
        if (device_.direct() || !reads_now_)
            return 0;
        const ::iovec all{to.data(), to.size()};
        const auto done =
            ::preadv2(device_.descriptor(), &all, 1, static_cast<::off_t>(offset), RWF_NOWAIT);
        if (done < 0 && errno == EOPNOTSUPP)
            reads_now_.is_lacking();
        return done < 0 ? 0 : static_cast<std::size_t>(done);
    }

    awaited write_durably(std::uint64_t offset, std::span<const std::byte> from)
    {
        if (auto earlier = device_.sync_state())
            co_return earlier;
        const auto answer = co_await async_uring<uring_answer>(
            Request::write(device_.descriptor(), offset, from, RWF_DSYNC), token{});
        if (!answer.code)
            co_return device_.sync_succeeded();
        if (!has_failed(answer))
            co_return heard(answer.code);
        // Not awaited, for a client that is gone awaits nothing more, and what it was told all others
        // have to know.
        if (!is_lacking(answer.code) && answer.code != std::errc::invalid_argument)
            co_return device_.durable_write_failed(answer.code.value(), offset, from);
        // The system has no such writes, or none of these data.
        if (auto refused = co_await async_uring<failure>(
                Request::write(device_.descriptor(), offset, from, 0), token{}))
            co_return refused;
        co_return co_await flush();
    }

    /// Tries what this file may lack. Once it does, it is not tried again.
    boost::asio::awaitable<std::error_code, Executor>
    allocate(ability& can, int mode, std::uint64_t offset, std::uint64_t length)
    {
        if (!can)
            co_return std::make_error_code(std::errc::not_supported);
        const auto said =
            co_await ask(Request::allocate(device_.descriptor(), mode, offset, length));
        if (is_lacking(said))
            can.is_lacking();
        co_return said;
    }

    struct free_memory {
        void operator()(std::byte* p) const noexcept { std::free(p); }
    };
    /// Memory that direct I/O takes, for a span that it does not.
    [[nodiscard]] std::unique_ptr<std::byte[], free_memory> aside(std::size_t n) const
    {
        const std::size_t line = device_.memory_alignment();
        void* const p = std::aligned_alloc(line, (n + line - 1) / line * line);
        if (p == nullptr)
            throw std::bad_alloc{};
        return std::unique_ptr<std::byte[], free_memory>{static_cast<std::byte*>(p)};
    }
    awaited read_aside(std::uint64_t offset, std::span<std::byte> to)
    {
        const auto memory = aside(to.size());
        auto failed = co_await read(offset, std::span{memory.get(), to.size()});
        if (!failed)
            std::copy_n(memory.get(), to.size(), to.data());
        co_return failed;
    }
    awaited write_aside(std::uint64_t offset, std::span<const std::byte> from, write_flags flags)
    {
        const auto memory = aside(from.size());
        std::copy_n(from.data(), from.size(), memory.get());
        co_return co_await write(offset, std::span<const std::byte>{memory.get(), from.size()},
                                 flags);
    }

    file_device device_;
    ability reads_now_;
    ability punches_;
    ability zeroes_;
};

/// On a private io_context for each thread, as strand_pool and per_client_threads have them, or on
/// one of the user's that a single thread runs.
using uring_file_backend = basic_uring_file_backend<boost::asio::io_context::executor_type>;

}  // namespace nbd

#endif
