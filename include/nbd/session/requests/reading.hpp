// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/file_pipe.hpp>
#include <nbd/session/buffers/request_memory.hpp>
#include <nbd/session/requests/replies.hpp>
#include <nbd/transmission/execution.hpp>
#include <nbd/transmission/read_plan.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>

namespace nbd::session {

/// The data of one READ, and where they come from: lent by the backend, read into the outbox, or
/// read into memory of the request. A client that takes chunks gets no data for holes.
///
/// `at_once` says that the READ is answered before the next request begins. Only then can it use
/// the outbox before the reply is complete, and a pipe that all READs share.
template <class Opened, class Observer, bool at_once>
class reading {
    using backend_type = typename Opened::backend_type;
    using plan_type = transmission::read_plan<backend_type>;
    using request = observed_request<Observer>;
    static constexpr bool lends_files = at_once && has_lend_file<backend_type>;
    static constexpr bool lends = has_lend<backend_type> || lends_files;

public:
    /// Bytes of an outbox in which a READ of ordinary length fits.
    static constexpr std::size_t outbox_bytes =
        (std::size_t{128} << 10) + 2 * replies<Observer>::most_header;

    /// Whether the reply may have holes in place of data. A short READ is not worth the question.
    [[nodiscard]] static bool leaves_out_holes(const request& r,
                                               const replies<Observer>& to) noexcept
    {
        constexpr std::uint64_t least = std::uint64_t{32} << 10;
        return has_extents<backend_type> && !has_handle<backend_type> && to.chunked()
            && r.length >= least && !r.has(protocol::command_flag::df);
    }
    /// Whether the reply to a READ that has not begun will fit into the outbox.
    [[nodiscard]] static bool will_fit(const request& r, const replies<Observer>& to) noexcept
    {
        // A longer READ is refused.
        const auto length = std::min(r.length, replies<Observer>::largest_read);
        return to.fits(length, fits_inline(length) ? static_cast<std::size_t>(length) : 0)
            && (to.out().empty() || !leaves_out_holes(r, to));
    }
    /// Takes the memory of the outbox for a READ that will fit. Errors: std::bad_alloc.
    static void reserve(const request& r, replies<Observer>& to)
    {
        const auto length = std::min(r.length, replies<Observer>::largest_read);
        to.reserve(length, fits_inline(length) ? static_cast<std::size_t>(length) : 0);
    }

    /// Begins an admitted READ. `sends_files`: the stream can send parts of files. Data that are
    /// not lent go to `memory`, charged to `client`. `least_block`: the minimum block size. False
    /// if the charge has to be waited for; begin again then.
    /// Errors: std::bad_alloc.
    [[nodiscard]] bool begin(const request& r, Opened& disk, replies<Observer>& to,
                             bool sends_files, request_memory& memory, client_memory& client,
                             std::uint64_t least_block)
    {
        memory_ = &memory;
        request_ = r;
        disk_ = &disk;
        to_ = &to;
        sends_files_ = sends_files;
        whole_ = {};
        inline_ = {};
        sparse_ = false;
        count_ = 0;
        if constexpr (lends_files)
            pipe_.begin();
        // Lent memory is sent without a search for holes, which may take longer than to send them.
        // Whether there are holes is only known when it is too late to wait for memory.
        const bool can_be_charged =
            block::bytes_for(static_cast<std::size_t>(r.length)) <= client.most_for_requests();
        if (r.length == 0 || !leaves_out_holes(r, to) || !can_be_charged || in_memory())
            return begin_whole(client);
        if (!memory.reserve(client, static_cast<std::size_t>(r.length)))
            return false;
        // A thread of the backend would take the block from the heap each time: this thread gets it
        // back.
        if constexpr (!at_once)
            memory.allocate(static_cast<std::size_t>(r.length));
        plan_.begin(r, true, least_block);
        return true;
    }

    // --- the calls: a plan, see transmission/plan.hpp -------------------------------------

    [[nodiscard]] std::optional<transmission::backend_call> next() const noexcept
    {
        if (request_.length == 0 || !whole_.none())
            return std::nullopt;
        return plan_.next();
    }
    /// Errors: std::bad_alloc.
    void completed(failure&& outcome)
    {
        const bool asked = plan_.asking();
        plan_.completed(std::move(outcome));
        if (asked) {
            sparse_ = plan_.has_holes();
            if (!sparse_)
                read_whole();
        }
        if (sparse_)
            prepare_piece();
    }
    [[nodiscard]] extent_list& list() noexcept { return plan_.list(); }
    /// Where the calls put the data of the whole request.
    [[nodiscard]] std::span<std::byte> data() const noexcept
    {
        return inline_.empty() ? memory_->first(static_cast<std::size_t>(request_.length))
                               : inline_.subspan(to_->data_header_bytes());
    }

    // --- the reply, when there is no next call --------------------------------------------

    /// Whether the reply fits into the outbox. Always true where `will_fit` was asked.
    [[nodiscard]] bool fits() const noexcept
    {
        return sparse_ ? to_->out().empty() : to_->fits(request_.length, most_copied());
    }
    /// Takes the memory of the outbox for the reply. Requires that it fits. Errors:
    /// std::bad_alloc.
    void reserve()
    {
        if (sparse_)
            to_->reserve_pieces(request_.length, plan_.pieces().size() + 1);
        else if (inline_.empty())
            to_->reserve(request_.length, most_copied());
    }
    void answer()
    {
        const auto& r = request_;
        if (r.length == 0) {
            to_->done(r);
        } else if (!whole_.none()) {
            to_->data(r, whole_);
        } else if (plan_.result()) {
            drop();
            to_->fail(r, plan_.result());
        } else if (!inline_.empty()) {
            to_->data_header(inline_, r, r.offset, static_cast<std::size_t>(r.length));
        } else if (sparse_) {
            std::size_t next = 0;
            to_->pieces(r, plan_.pieces(), [&](std::uint64_t at, std::size_t n) -> lent_data {
                if constexpr (lends)
                    return parts_[next++];
                return data().subspan(static_cast<std::size_t>(at - r.offset), n);
            });
        } else {
            to_->data(r, data());
        }
    }
    /// Takes back what it has added to the outbox; there will be another reply.
    void drop() noexcept
    {
        if (!inline_.empty())
            to_->out().retract(std::exchange(inline_, {}).size());
        if constexpr (lends_files)
            pipe_.drop();
    }
    /// The reply refers to memory, or to a pipe, that the next READ reuses.
    [[nodiscard]] bool must_be_sent_first() const noexcept
    {
        if constexpr (lends_files) {
            if (pipe_.in_use())
                return true;
        }
        return memory_->allocated();
    }

private:
    /// Bytes of the longest READ that is read into the outbox where the backend could have lent it:
    /// the outbox has less room for the replies behind it.
    static constexpr std::size_t largest_inline_beside_lent = std::size_t{8} << 10;
    /// Below this many bytes a copy costs less than a system call.
    static constexpr std::size_t least_from_file = std::size_t{32} << 10;

    /// Whether data of that length are read straight into the outbox.
    [[nodiscard]] static constexpr bool fits_inline(std::uint64_t length) noexcept
    {
        return at_once
            && length <= (has_lend<backend_type> ? largest_inline_beside_lent
                                                 : outbox_bytes - replies<Observer>::most_header);
    }
    /// Bytes of data that are copied behind the header, where they are not read there.
    [[nodiscard]] std::size_t most_copied() const noexcept
    {
        return static_cast<std::size_t>(
            std::min<std::uint64_t>(replies<Observer>::copied_data, request_.length));
    }
    [[nodiscard]] bool in_memory() const noexcept
    {
        if constexpr (has_lend<backend_type>)
            return !disk_->backend()
                        .lend(request_.offset, static_cast<std::size_t>(request_.length))
                        .empty();
        else
            return false;
    }

    /// Without holes: lent as a whole, or read by one call.
    [[nodiscard]] bool begin_whole(client_memory& client)
    {
        const auto length = static_cast<std::size_t>(request_.length);
        if (length != 0)
            whole_ = lent_by_backend(request_.offset, length);
        if (!whole_.none())
            return true;
        if (!fits_inline(length) && !memory_->reserve(client, length))
            return false;
        read_into_memory();
        return true;
    }
    /// The same, where memory was reserved.
    void read_whole()
    {
        whole_ = lent_by_backend(request_.offset, static_cast<std::size_t>(request_.length));
        if (whole_.none())
            read_into_memory();
    }
    void read_into_memory()
    {
        plan_.begin(request_, false);
        const auto length = static_cast<std::size_t>(request_.length);
        if (length == 0)
            return;
        if (fits_inline(length))
            inline_ = to_->out().append(to_->data_header_bytes() + length);
        else if (!memory_->allocated())
            memory_->allocate(length);
    }
    /// With holes: skips the pieces that the backend lends, and finds a place for the next one.
    void prepare_piece()
    {
        for (auto call = plan_.next(); call; call = plan_.next()) {
            const auto n = static_cast<std::size_t>(call->length);
            const auto lent = lent_by_backend(call->offset, n);
            if (lent.none() && !memory_->allocated())
                memory_->allocate(static_cast<std::size_t>(request_.length));
            if constexpr (lends) {
                const auto at = static_cast<std::size_t>(call->offset - request_.offset);
                parts_[count_++] = lent.none() ? lent_data{data().subspan(at, n)} : lent;
            }
            if (lent.none())
                return;
            plan_.completed({});
        }
    }

    /// What the backend lends of a range, or nothing.
    [[nodiscard]] lent_data lent_by_backend([[maybe_unused]] std::uint64_t at,
                                            [[maybe_unused]] std::size_t n) noexcept
    {
        if constexpr (lends_files) {
            if (sends_files_ && n >= least_from_file) {
                const file_range file = disk_->backend().lend_file(at, n);
                if (file.file >= 0 && file.sure)
                    return {file, n};
                if (file.file >= 0 && pipe_.fill(file.file, file.offset, n))
                    return {{pipe_.descriptor(), io::next_in_pipe}, n};
            }
        }
        if constexpr (has_lend<backend_type>) {
            const std::span<const std::byte> lent = disk_->backend().lend(at, n);
            if (lent.size() == n)
                return lent;
        }
        return {};
    }

    request request_;
    Opened* disk_ = nullptr;
    replies<Observer>* to_ = nullptr;
    bool sends_files_ = false;
    lent_data whole_;                   ///< all data, lent by the backend
    std::span<std::byte> inline_;       ///< room in the outbox: a header, then the data
    request_memory* memory_ = nullptr;  ///< for data that are neither lent nor in the outbox
    plan_type plan_;
    [[no_unique_address]] std::conditional_t<lends_files, io::file_pipe, std::monostate> pipe_;
    /// The data of each piece that is no hole, in order.
    [[no_unique_address]] std::conditional_t<
        lends, std::array<lent_data, plan_type::most_extents + 1>, std::monostate>
        parts_;
    std::size_t count_ = 0;  ///< of parts_
    bool sparse_ = false;    ///< the backend has reported holes
};

}  // namespace nbd::session
