// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/file_device.hpp>
#include <nbd/concepts/backend.hpp>

#include <algorithm>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>

#include <fcntl.h>
#include <liburing.h>

namespace nbd {

/// What the kernel is asked to do with a file, in the words of a submission queue entry. The memory
/// stays the caller's, who keeps it until the operation has completed.
struct uring_request {
    std::uint8_t opcode = IORING_OP_NOP;
    int file = -1;
    std::uint64_t offset = 0;   ///< bytes, in the file
    std::uint64_t address = 0;  ///< of the memory; fallocate has its length here
    std::uint64_t length = 0;   ///< bytes; fallocate has its mode here
    std::uint32_t flags = 0;    ///< RWF_*, IORING_FSYNC_*, POSIX_FADV_*

    static uring_request read(int file, std::uint64_t offset, std::span<std::byte> to) noexcept
    {
        return {IORING_OP_READ, file, offset, address_of(to.data()), to.size(), 0};
    }
    static uring_request write(int file, std::uint64_t offset, std::span<const std::byte> from,
                               std::uint32_t flags) noexcept
    {
        return {IORING_OP_WRITE, file, offset, address_of(from.data()), from.size(), flags};
    }
    /// Data, and what it takes to find them again, to stable storage.
    static uring_request sync(int file) noexcept
    {
        return {IORING_OP_FSYNC, file, 0, 0, 0, IORING_FSYNC_DATASYNC};
    }
    static uring_request allocate(int file, int mode, std::uint64_t offset,
                                  std::uint64_t length) noexcept
    {
        return {IORING_OP_FALLOCATE, file, offset, length, static_cast<std::uint64_t>(mode), 0};
    }

    /// Starts to bring a range, of less than 4 GiB, into the page cache.
    static uring_request will_need(int file, std::uint64_t offset, std::uint64_t length) noexcept
    {
        return {IORING_OP_FADVISE, file, offset, 0, length, POSIX_FADV_WILLNEED};
    }

    /// Reading and writing go on until all bytes are moved.
    [[nodiscard]] bool is_transfer() const noexcept
    {
        return opcode == IORING_OP_READ || opcode == IORING_OP_WRITE;
    }

    void write_to(io_uring_sqe& entry) const noexcept
    {
        constexpr std::uint64_t most_at_once = std::uint64_t{1} << 30;  // the kernel moves no more
        io_uring_prep_rw(opcode, &entry, file, nullptr,
                         static_cast<unsigned>(std::min(length, most_at_once)), offset);
        entry.addr = address;
        entry.rw_flags = static_cast<decltype(entry.rw_flags)>(flags);
    }

private:
    static std::uint64_t address_of(const void* p) noexcept
    {
        return reinterpret_cast<std::uintptr_t>(p);
    }
};

/// How a request ended, in the system's words.
struct uring_answer {
    std::error_code code;
    bool begun =
        true;  ///< false: the kernel has not tried it, and so the error tells nothing of the file
};

/// A request under way, in memory that whoever waits for it owns. It is always on one of the lists of
/// one uring_service, under whose lock everything here stands.
struct uring_operation {
    enum class stage : std::uint8_t { fresh, waiting, submitted, cancelling, cancelled, finished };

    uring_operation* previous = nullptr;
    uring_operation* next = nullptr;
    uring_request request;
    int error = 0;
    /// Ends the operation and its memory: calls its handler, or drops that, where `run` is false.
    void (*end)(uring_operation*, bool run) = nullptr;
    stage at = stage::fresh;
    bool cancel_wanted = false;
    bool begun = true;
    bool moved = false;  // some of it
    std::uint8_t refusals = 0;

    uring_operation(const uring_request& r, void (*e)(uring_operation*, bool)) noexcept
        : request{r}, end{e}
    {
    }
    uring_operation(const uring_operation&) = delete;
    uring_operation& operator=(const uring_operation&) = delete;

    /// Takes the kernel's answer. True: the rest of the request must be submitted again.
    [[nodiscard]] bool unfinished_after(int result) noexcept
    {
        // A thread that ends takes back what it had submitted, though nobody asked for that.
        if (result == -EINTR || result == -EAGAIN || result == -ECANCELED)
            return cancel_wanted ? fails(ECANCELED)
                                 : ++refusals < most_refusals || is_refused(-result);
        // Direct I/O shows a file's end by a length that is no block, and cannot go on from there.
        if (result < 0)
            return fails(moved && result == -EINVAL ? EIO : -result);
        if (!request.is_transfer() || request.length == 0)
            return false;
        if (result == 0)  // the file is shorter than it was
            return fails(EIO);
        moved = true;
        const auto n = static_cast<std::uint64_t>(result);
        request.offset += n;
        request.address += n;
        request.length -= n;
        return request.length != 0 && (!cancel_wanted || fails(ECANCELED));
    }

    /// Always false.
    bool fails(int number) noexcept
    {
        error = number;
        return false;
    }

    /// Always false.
    bool is_refused(int number) noexcept
    {
        begun = false;
        return fails(number);
    }

    /// As the kernel said it, or as clients should hear it.
    template <class Outcome>
    [[nodiscard]] Outcome outcome() const
    {
        const std::error_code said{error, std::system_category()};
        if constexpr (std::same_as<Outcome, uring_answer>) {
            return {said, begun};
        } else {
            if constexpr (std::same_as<Outcome, failure>) {
                if (error != 0 && error != ECANCELED)
                    return file_failure(error, request.offset);
            }
            return said;
        }
    }

private:
    static constexpr std::uint8_t most_refusals = 100;
};

/// Operations one after the other, linked through themselves.
class uring_operation_list {
public:
    [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }
    [[nodiscard]] uring_operation* first() const noexcept { return first_; }

    void push(uring_operation& op, uring_operation::stage at) noexcept
    {
        op.at = at;
        op.next = nullptr;
        op.previous = last_;
        (last_ == nullptr ? first_ : last_->next) = &op;
        last_ = &op;
    }
    void remove(uring_operation& op) noexcept
    {
        (op.previous == nullptr ? first_ : op.previous->next) = op.next;
        (op.next == nullptr ? last_ : op.next->previous) = op.previous;
    }
    /// Null where there is none.
    uring_operation* pop() noexcept
    {
        auto* const op = first_;
        if (op != nullptr)
            remove(*op);
        return op;
    }

private:
    uring_operation* first_ = nullptr;
    uring_operation* last_ = nullptr;
};

}  // namespace nbd
