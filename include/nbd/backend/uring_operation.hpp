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

/// One operation on a file, with the fields of a submission queue entry.
/// *Lifetime*: the caller keeps the memory valid until the operation has completed.
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
    /// Brings written data, and the metadata needed to find them, to stable storage.
    static uring_request sync(int file) noexcept
    {
        return {IORING_OP_FSYNC, file, 0, 0, 0, IORING_FSYNC_DATASYNC};
    }
    static uring_request allocate(int file, int mode, std::uint64_t offset,
                                  std::uint64_t length) noexcept
    {
        return {IORING_OP_FALLOCATE, file, offset, length, static_cast<std::uint64_t>(mode), 0};
    }

    /// Starts to read a range of at most 1 GiB into the page cache.
    static uring_request will_need(int file, std::uint64_t offset, std::uint64_t length) noexcept
    {
        return {IORING_OP_FADVISE, file, offset, 0, length, POSIX_FADV_WILLNEED};
    }

    /// Whether it is a read or a write, which is submitted again until all bytes are moved.
    [[nodiscard]] bool is_transfer() const noexcept
    {
        return opcode == IORING_OP_READ || opcode == IORING_OP_WRITE;
    }

    void write_to(io_uring_sqe& entry) const noexcept
    {
        // The length field has 32 bits, and the kernel moves less than 2 GiB at once.
        constexpr std::uint64_t most_at_once = std::uint64_t{1} << 30;
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

/// The result of a request, as the system reported it.
struct uring_answer {
    std::error_code code;
    /// False: the kernel has not tried the operation, so `code` tells nothing about the file.
    bool begun = true;
};

/// A request in progress. Its memory belongs to the caller of uring_service::start. It is always on
/// one list of a uring_service, whose mutex guards all members.
struct uring_operation {
    enum class stage : std::uint8_t { fresh, waiting, submitted, cancelling, cancelled, finished };

    uring_operation* previous = nullptr;
    uring_operation* next = nullptr;
    uring_request request;
    int error = 0;
    /// Frees the operation and, if `run` is true, calls its handler.
    void (*end)(uring_operation*, bool run) = nullptr;
    stage at = stage::fresh;
    bool cancel_wanted = false;
    bool begun = true;
    bool moved = false;         ///< some bytes were read or written
    std::uint8_t refusals = 0;  ///< how often the kernel has asked to try again

    uring_operation(const uring_request& r, void (*e)(uring_operation*, bool)) noexcept
        : request{r}, end{e}
    {
    }
    uring_operation(const uring_operation&) = delete;
    uring_operation& operator=(const uring_operation&) = delete;

    /// Records the kernel's answer. *Returns* true if the rest of the request must be submitted
    /// again.
    [[nodiscard]] bool unfinished_after(int result) noexcept
    {
        // ECANCELED without a cancellation: the kernel cancels the operations of a thread that
        // ends.
        if (result == -EINTR || result == -EAGAIN || result == -ECANCELED)
            return cancel_wanted ? fail_with(ECANCELED)
                                 : ++refusals < most_refusals || refuse_with(-result);
        // EINVAL in the middle, with direct I/O: the previous part ended at the end of the file, at
        // an offset that is not a multiple of the alignment.
        if (result < 0)
            return fail_with(moved && result == -EINVAL ? EIO : -result);
        if (!request.is_transfer() || request.length == 0)
            return false;
        if (result == 0)  // the end of the file, which was truncated
            return fail_with(EIO);
        moved = true;
        const auto n = static_cast<std::uint64_t>(result);
        request.offset += n;
        request.address += n;
        request.length -= n;
        return request.length != 0 && (!cancel_wanted || fail_with(ECANCELED));
    }

    /// Always false.
    bool fail_with(int number) noexcept
    {
        error = number;
        return false;
    }

    /// Always false.
    bool refuse_with(int number) noexcept
    {
        begun = false;
        return fail_with(number);
    }

    /// *Returns* the result: as the kernel reported it or, in a failure, as it is sent to clients.
    template <class Outcome>
    [[nodiscard]] Outcome outcome() const
    {
        const std::error_code code{error, std::system_category()};
        if constexpr (std::same_as<Outcome, uring_answer>) {
            return {code, begun};
        } else {
            if constexpr (std::same_as<Outcome, failure>) {
                if (error != 0 && error != ECANCELED)
                    return file_failure(error, request.offset);
            }
            return code;
        }
    }

private:
    static constexpr std::uint8_t most_refusals = 100;
};

/// A list of operations, linked through their members. It does not own them.
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
    /// *Returns* null if the list is empty.
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
