// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/request.hpp>
#include <nbd/transmission/admission.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

namespace nbd::session {

/// The requests of one client that are under way, each in a slot of its own: how many there may be,
/// which must wait for others, and whose replies are next. A `Slot` has a `job` and a `next`.
/// What is not sent yet counts as under way, so a client that takes no replies is not served on.
template <class Slot>
class window {
public:
    /// A BLOCK_STATUS that wants more than one extent counts for `status_bytes`.
    window(std::size_t most_requests, std::uint64_t most_bytes, bool serialise_overlaps,
           std::uint64_t status_bytes = 0)
        : most_requests_{std::max<std::size_t>(most_requests, 1)}, most_bytes_{most_bytes},
          status_bytes_{status_bytes}, serialises_{serialise_overlaps}
    {
    }

    [[nodiscard]] bool empty() const noexcept { return under_way_ == 0; }

    /// Whether this request may be begun now.
    [[nodiscard]] bool has_room_for(const protocol::request& r) const noexcept
    {
        if (under_way_ == 0)
            return true;
        // What a client asks for before a RESIZE comes before it, and what comes after needs its outcome.
        if (resizing_ || r.command == protocol::command::resize)
            return false;
        if (under_way_ == most_requests_ || bytes_of(r) > most_bytes_
            || bytes_ > most_bytes_ - bytes_of(r))
            return false;
        return !serialises_ || std::none_of(slots_.begin(), slots_.end(), [&](const Slot& s) {
            return s.under_way && overlap(s.job.request(), r);
        });
    }

    /// A slot for this request, for which there is room.
    [[nodiscard]] Slot& take(const protocol::request& r)
    {
        if (free_ == nullptr)
            free_ = &slots_.emplace_back();
        Slot& s = *free_;
        free_ = std::exchange(s.next, nullptr);
        s.under_way = true;
        resizing_ = r.command == protocol::command::resize;
        ++under_way_;
        bytes_ += bytes_of(r);
        return s;
    }

    /// All its calls have been made; its reply is due.
    void finished(Slot& s) noexcept
    {
        s.next = nullptr;
        (last_due_ == nullptr ? due_ : last_due_->next) = &s;
        last_due_ = &s;
    }

    /// Writes replies that are due, in the order in which they became so, as many as fit.
    template <class Replies>
    void gather(Replies& to)
    {
        while (due_ != nullptr && due_->job.fits(to)) {
            Slot& s = *due_;
            due_ = s.next;
            s.job.answer(to);
            s.next = std::exchange(sending_, &s);
        }
        if (due_ == nullptr)
            last_due_ = nullptr;
    }
    /// What was gathered has been sent.
    void sent() noexcept { release(sending_); }
    /// Nothing can be sent any more.
    void drop_replies() noexcept
    {
        sent();
        last_due_ = nullptr;
        release(due_);
    }

    /// Slots that were ever used.
    template <class F>
    void for_each(F&& f)
    {
        for (auto& s : slots_)
            f(s);
    }

private:
    [[nodiscard]] std::uint64_t bytes_of(const protocol::request& r) const noexcept
    {
        using protocol::command;
        if (r.command == command::read)
            return r.length;
        const bool many =
            r.command == command::block_status && !r.has(protocol::command_flag::req_one);
        return r.payload() + (many ? status_bytes_ : 0);
    }
    [[nodiscard]] static bool overlap(const protocol::request& a,
                                      const protocol::request& b) noexcept
    {
        return (transmission::writes(a.command) || transmission::writes(b.command))
            && a.offset < b.offset + b.length && b.offset < a.offset + a.length;
    }

    void release(Slot*& list) noexcept
    {
        while (list != nullptr) {
            Slot& s = *std::exchange(list, list->next);
            bytes_ -= bytes_of(s.job.request());
            --under_way_;
            s.under_way = false;
            s.job.done();
            s.next = std::exchange(free_, &s);
        }
    }

    std::size_t most_requests_;
    std::uint64_t most_bytes_;
    std::uint64_t status_bytes_;
    bool serialises_;
    std::deque<Slot> slots_;  ///< made as they are needed, and not moved
    Slot* free_ = nullptr;
    Slot* due_ = nullptr;
    Slot* last_due_ = nullptr;
    Slot* sending_ = nullptr;
    std::size_t under_way_ = 0;
    bool resizing_ = false;  ///< the last that was taken, and so the only one
    std::uint64_t bytes_ = 0;
};

}  // namespace nbd::session
