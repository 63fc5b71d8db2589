// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/buffers/block.hpp>
#include <nbd/session/buffers/client_memory.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

namespace nbd::session {

/// The memory of one request, charged before it is allocated.
/// Thread safety: distinct objects: safe. Shared objects: unsafe.
class request_memory {
public:
    /// Charges the client for a block of `n` bytes. False where the charge has to be waited for,
    /// see `wanted` and `adopt`. Has no effect if as much is charged already.
    [[nodiscard]] bool reserve(client_memory& client, std::size_t n) noexcept
    {
        return reserve_bytes(client, block::bytes_for(n));
    }
    /// The same for memory that is not in a block.
    [[nodiscard]] bool reserve_bytes(client_memory& client, std::size_t n) noexcept
    {
        wanted_ = n;
        return charge_.bytes() >= n || client.begin_request(charge_, n);
    }
    /// Bytes of the last reservation.
    [[nodiscard]] std::size_t wanted() const noexcept { return wanted_; }
    [[nodiscard]] std::size_t charged() const noexcept { return charge_.bytes(); }
    void adopt(charge granted) noexcept { charge_ = std::move(granted); }

    /// A block of at least `n` bytes, which were reserved. Errors: std::bad_alloc.
    void allocate(std::size_t n) { block_ = block{n}; }
    [[nodiscard]] bool allocated() const noexcept { return block_.size() != 0; }
    [[nodiscard]] std::span<std::byte> first(std::size_t n) const noexcept
    {
        return block_.first(n);
    }

    /// Gives back what is charged beyond the block and `n` bytes.
    void settle(std::size_t n = 0) noexcept { charge_.shrink(block_.size() + n); }
    void release() noexcept
    {
        if (block_.size() != 0)
            block_ = {};
        charge_.shrink(0);
    }

private:
    charge charge_;
    block block_;
    std::size_t wanted_ = 0;
};

}  // namespace nbd::session
