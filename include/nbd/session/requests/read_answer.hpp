// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/file_pipe.hpp>
#include <nbd/session/buffers/scratch.hpp>
#include <nbd/session/requests/replies.hpp>
#include <nbd/transmission/execution.hpp>
#include <nbd/transmission/read_plan.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nbd::session {

/// Answers READs at once: with what the backend lends, or read into the outbox or, where that is too
/// small, into scratch memory; and in chunks that leave holes out, where the backend knows them.
template <class Opened, class Observer>
class read_answer {
    using backend_type = typename Opened::backend_type;

public:
    /// `files` says that parts of files can be sent as they are.
    read_answer(Opened& disk, replies<Observer>& answers, scratch& memory, bool files)
        : disk_{disk}, to_{answers}, scratch_{memory}, files_{files}
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
        return sparse<backend_type>(r, to_);
    }

    /// False where it must be sent before anything else is answered.
    [[nodiscard]] bool answer(const protocol::request& r)
    {
        const auto length = static_cast<std::size_t>(r.length);
        pipe_.begin();
        if (length == 0) {
            to_.done(r);
            return true;
        }
        if (wants_empty_outbox(r) && !in_memory(r) && answer_sparse(r))
            return false;
        if (const auto lent = lent_by_backend(r.offset, length); !lent.none()) {
            if (lent.in_file())
                to_.lend_data(r, r.offset, lent);
            else
                to_.data(r, lent.memory);
            return !lent.in_pipe();
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

    /// Whether holes are to be left out of an answer. In a short READ they are not worth asking for.
    template <class B>
    [[nodiscard]] static bool sparse(const protocol::request& r,
                                     const replies<Observer>& to) noexcept
    {
        constexpr std::uint64_t least = std::uint64_t{32} << 10;
        // Each piece is a header and data in the outbox; so is what a piece is split into.
        constexpr std::uint64_t most =
            (outbox::max_pieces / 2 - 1 - (transmission::read_plan<B>::most_extents + 1))
            * std::uint64_t{replies<Observer>::largest_chunk};
        return has_extents<B> && !has_handle<B> && to.chunked() && r.length >= least
            && r.length <= most && !r.has(protocol::command_flag::df);
    }

private:
    /// Below this, a copy is cheaper than a system call of its own.
    static constexpr std::size_t least_from_file = std::size_t{32} << 10;

    [[nodiscard]] static constexpr std::size_t largest_inline() noexcept
    {
        return has_lend<backend_type> ? replies<Observer>::copied_data
                                      : outbox_bytes - replies<Observer>::most_header;
    }

    [[nodiscard]] failure read(const protocol::request& r, std::span<std::byte> to) noexcept
    {
        return transmission::read(disk_.backend(), r, to, disk_);
    }

    /// True where there was a hole to leave out, and so the answer is made.
    [[nodiscard]] bool answer_sparse(const protocol::request& r)
    {
        const auto make = [&](const transmission::step& s, std::span<std::byte> data) {
            return transmission::make(
                disk_.backend(), s, {.request = &r, .data = data, .extents = &plan_.list()}, disk_);
        };
        plan_.begin(r, true);
        plan_.take(make(*plan_.next(), {}));
        if (!plan_.has_holes())
            return false;
        // All data are there before the first chunk is, so the last may say that it is the last.
        std::span<std::byte> memory;
        parts_.clear();
        while (const auto s = plan_.next()) {
            const auto n = static_cast<std::size_t>(s->length);
            parts_.push_back(lent_by_backend(s->offset, n));
            if (!parts_.back().none()) {
                plan_.take({});
                continue;
            }
            if (memory.empty())
                memory = scratch_.bytes(static_cast<std::size_t>(r.length));
            parts_.back() = memory.subspan(static_cast<std::size_t>(s->offset - r.offset), n);
            plan_.take(make(*s, memory));
        }
        if (plan_.result()) {
            pipe_.drop();
            to_.fail(r, plan_.result());
            return true;
        }
        auto part = parts_.begin();
        to_.pieces(r, plan_.pieces(), [&part](std::uint64_t, std::size_t) { return *part++; });
        return true;
    }

    /// The backend lends all of it from memory, so it is data as far as anybody knows without looking
    /// closer; and looking may take longer than sending it.
    [[nodiscard]] bool in_memory([[maybe_unused]] const protocol::request& r) noexcept
    {
        if constexpr (has_lend<backend_type>)
            return !disk_.backend().lend(r.offset, static_cast<std::size_t>(r.length)).empty();
        else
            return false;
    }

    /// What the backend lends of a range, or nothing.
    [[nodiscard]] lent_data lent_by_backend([[maybe_unused]] std::uint64_t at,
                                            [[maybe_unused]] std::size_t n) noexcept
    {
        if constexpr (has_lend_file<backend_type>) {
            if (files_ && n >= least_from_file) {
                const file_range file = disk_.backend().lend_file(at, n);
                if (file.file >= 0 && file.sure)
                    return {file, n};
                if (file.file >= 0 && pipe_.take(file.file, file.offset, n))
                    return {{pipe_.descriptor(), io::next_in_pipe}, n};
            }
        }
        if constexpr (has_lend<backend_type>) {
            const std::span<const std::byte> lent = disk_.backend().lend(at, n);
            if (lent.size() == n)
                return lent;
        }
        return {};
    }

    Opened& disk_;
    replies<Observer>& to_;
    scratch& scratch_;
    const bool files_;
    io::file_pipe pipe_;
    transmission::read_plan<backend_type> plan_;
    std::vector<lent_data> parts_;
};

}  // namespace nbd::session
