// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/replies.hpp>
#include <nbd/session/scratch.hpp>
#include <nbd/transmission/block_status.hpp>
#include <nbd/transmission/execution.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nbd::session {

/// Answers READs: from memory that the backend lends, or read into the outbox or, where that is too
/// small, into scratch memory; and in chunks that leave holes out, where the backend knows them.
template <class Opened, class Observer>
class read_answer {
    using backend_type = typename Opened::backend_type;

public:
    read_answer(Opened& disk, replies<Observer>& answers, scratch& memory)
        : disk_{disk}, to_{answers}, scratch_{memory}
    {
    }

    /// Bytes of the outbox that the answer's data take.
    [[nodiscard]] std::size_t room(const protocol::request& r) const noexcept
    {
        return r.length <= largest_inline() ? static_cast<std::size_t>(r.length) : 0;
    }
    /// The answer is made of many pieces, and wants the outbox for itself.
    [[nodiscard]] bool wants_empty_outbox(const protocol::request& r) const noexcept
    {
        return has_extents<backend_type> && to_.chunked() && r.length >= least_sparse
            && !r.has(protocol::command_flag::df);
    }

    /// False where it must be sent before anything else is answered.
    [[nodiscard]] bool answer(const protocol::request& r)
    {
        const auto length = static_cast<std::size_t>(r.length);
        if (length == 0) {
            to_.done(r);
            return true;
        }
        if constexpr (has_extents<backend_type>) {
            if (wants_empty_outbox(r) && answer_sparse(r))
                return false;
        }
        if (const auto lent = lent_by_backend(r.offset, length); !lent.empty()) {
            if (length > copied_data) {
                to_.lend_data(r, r.offset, lent);
            } else {
                const auto header = to_.data_header_bytes();
                const auto room = to_.out().append(header + length);
                to_.data_header(room, r, r.offset, length);
                std::copy(lent.begin(), lent.end(), room.subspan(header).begin());
            }
            return true;
        }
        if (length <= largest_inline()) {
            const auto header = to_.data_header_bytes();
            const auto room = to_.out().append(header + length);
            if (const auto failed = read(r, room.subspan(header))) {
                to_.out().retract(header + length);
                to_.fail(r, failed);
            } else {
                to_.data_header(room, r, r.offset, length);
            }
            return true;
        }
        // "READ": an error MUST NOT follow a success header, so the data come first.
        const auto data = scratch_.bytes(length);
        if (const auto failed = read(r, data))
            to_.fail(r, failed);
        else
            to_.lend_data(r, r.offset, data);
        return false;
    }

    static constexpr std::size_t outbox_bytes =
        (std::size_t{128} << 10) + 2 * replies<Observer>::most_header;

private:
    /// Data up to this are cheaper copied behind their header than gathered as a piece of their own.
    static constexpr std::size_t copied_data = std::size_t{8} << 10;
    /// In a shorter READ, holes are not worth asking for.
    static constexpr std::uint64_t least_sparse = std::uint64_t{32} << 10;
    /// Each is two pieces of the outbox.
    static constexpr std::size_t most_extents = 24;

    [[nodiscard]] static constexpr std::size_t largest_inline() noexcept
    {
        return has_lend<backend_type> ? copied_data : outbox_bytes - replies<Observer>::most_header;
    }

    [[nodiscard]] failure read(const protocol::request& r, std::span<std::byte> to) noexcept
    {
        [[maybe_unused]] const auto lock = disk_.lock();
        return transmission::read(disk_.backend(), r, to);
    }

    /// True where there was a hole to leave out, and so the answer is made.
    [[nodiscard]] bool answer_sparse(const protocol::request& r)
    {
        extents_.begin(r.length, most_extents);
        {
            [[maybe_unused]] const auto lock = disk_.lock();
            // Extents only save work here: what they do not tell is read.
            if (transmission::outcome_of(
                    [&] { return disk_.backend().extents(r.offset, r.length, extents_); }))
                return false;
        }
        const auto zero = [](const extent& e) {
            return (e.flags & protocol::state_flag::zero) != 0;
        };
        const auto found = extents_.extents();
        if (std::none_of(found.begin(), found.end(), zero))
            return false;

        // All data are there before the first chunk is, so the last may say that it is the last.
        const auto memory = all_lent(r) ? std::span<std::byte>{}
                                        : scratch_.bytes(static_cast<std::size_t>(r.length));
        if (!memory.empty() && !read_data(r, memory))
            return true;
        std::uint64_t at = r.offset;
        const auto end = r.offset + r.length;
        for (const auto& e : found) {
            const bool last = at + e.length == end;
            if (zero(e))
                to_.hole(r, at, static_cast<std::uint32_t>(e.length), last);
            else
                data(r, at, e.length, memory, last);
            at += e.length;
        }
        if (at != end)
            data(r, at, end - at, memory, true);
        return true;
    }

    /// Memory of the backend's for the whole range, or none.
    [[nodiscard]] std::span<const std::byte>
    lent_by_backend([[maybe_unused]] std::uint64_t at, [[maybe_unused]] std::size_t n) noexcept
    {
        if constexpr (has_lend<backend_type>) {
            const std::span<const std::byte> lent = disk_.backend().lend(at, n);
            if (lent.size() == n)
                return lent;
        }
        return {};
    }

    /// Nothing has to be read: whatever is not zero lies in memory of the backend's.
    [[nodiscard]] bool all_lent(const protocol::request& r) noexcept
    {
        auto at = r.offset;
        for (const auto& e : extents_.extents()) {
            if ((e.flags & protocol::state_flag::zero) == 0
                && lent_by_backend(at, static_cast<std::size_t>(e.length)).empty())
                return false;
            at += e.length;
        }
        const auto rest = static_cast<std::size_t>(r.offset + r.length - at);
        return rest == 0 || !lent_by_backend(at, rest).empty();
    }

    void data(const protocol::request& r, std::uint64_t at, std::uint64_t length,
              std::span<std::byte> memory, bool last)
    {
        const auto n = static_cast<std::size_t>(length);
        if (const auto lent = lent_by_backend(at, n); !lent.empty())
            to_.lend_data(r, at, lent, last);
        else
            to_.lend_data(r, at, memory.subspan(static_cast<std::size_t>(at - r.offset), n), last);
    }

    /// Reads what is not a hole to its place in `memory`; false where that failed and was answered.
    [[nodiscard]] bool read_data(const protocol::request& r, std::span<std::byte> memory)
    {
        std::uint64_t at = r.offset;
        const auto part = [&](std::uint64_t length) {
            if (!lent_by_backend(at, static_cast<std::size_t>(length)).empty())
                return true;
            const auto to = memory.subspan(static_cast<std::size_t>(at - r.offset),
                                           static_cast<std::size_t>(length));
            auto piece = r;
            piece.offset = at;
            piece.length = length;
            auto failed = read(piece, to);
            if (failed && !failed.offset)
                failed.offset = at;
            if (failed)
                to_.fail(r, failed);
            return !failed;
        };
        for (const auto& e : extents_.extents()) {
            if ((e.flags & protocol::state_flag::zero) == 0 && !part(e.length))
                return false;
            at += e.length;
        }
        const auto rest = r.offset + r.length - at;
        return rest == 0 || part(rest);
    }

    Opened& disk_;
    replies<Observer>& to_;
    scratch& scratch_;
    extent_list extents_;
};

}  // namespace nbd::session
