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

/// The in-flight window of one client: a slot for each request in flight. It decides whether a
/// request may begin, and keeps the order of the replies. A `Slot` has a `job`, a `next` and an
/// `under_way`. A request counts until its reply was sent, so a client that does not read its
/// replies is not served further.
template <class Slot>
class window {
public:
    /// - `most_bytes`: bytes of data of all requests; a single request may have more.
    /// - `serialize_overlaps`: a request waits for requests that overlap it, if one of them writes.
    /// - `status_bytes`: what a BLOCK_STATUS counts that asks for more than one extent.
    window(std::size_t most_requests, std::uint64_t most_bytes, bool serialize_overlaps,
           std::uint64_t status_bytes = 0)
        : most_requests_{std::max<std::size_t>(most_requests, 1)}, most_bytes_{most_bytes},
          status_bytes_{status_bytes}, serializes_{serialize_overlaps}
    {
    }

    [[nodiscard]] bool empty() const noexcept { return under_way_ == 0; }

    /// Whether this request may begin now.
    [[nodiscard]] bool has_room_for(const protocol::request& r) const noexcept
    {
        if (under_way_ == 0)
            return true;
        // A RESIZE begins when all requests before it are answered, and the next request when the
        // RESIZE is.
        if (resizing_ || r.command == protocol::command::resize)
            return false;
        if (under_way_ == most_requests_ || bytes_of(r) > most_bytes_
            || bytes_ > most_bytes_ - bytes_of(r))
            return false;
        return !serializes_ || std::none_of(slots_.begin(), slots_.end(), [&](const Slot& s) {
            return s.under_way && overlap(s.job.request(), r);
        });
    }

    /// A slot for this request. Requires has_room_for(r). *Errors*: std::bad_alloc.
    [[nodiscard]] Slot& occupy(const protocol::request& r)
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

    /// Frees a slot whose request has not begun.
    void vacate(Slot& s, const protocol::request& r) noexcept
    {
        bytes_ -= bytes_of(r);
        --under_way_;
        s.under_way = false;
        s.next = std::exchange(free_, &s);
    }

    /// All calls of the request have completed; its reply is due.
    void finished(Slot& s) noexcept
    {
        s.next = nullptr;
        (last_due_ == nullptr ? due_ : last_due_->next) = &s;
        last_due_ = &s;
    }

    /// Adds the replies that are due to the outbox, in the order in which they became due, as many
    /// as fit.
    /// *Errors*: std::bad_alloc.
    void gather()
    {
        while (due_ != nullptr && due_->job.fits()) {
            Slot& s = *due_;
            s.job.reserve();
            s.job.answer();
            due_ = s.next;
            s.next = std::exchange(sending_, &s);
        }
        if (due_ == nullptr)
            last_due_ = nullptr;
    }
    /// The gathered replies were sent.
    void sent() noexcept { release(sending_); }
    /// No reply can be sent any more.
    void drop_replies() noexcept
    {
        sent();
        last_due_ = nullptr;
        release(due_);
    }

    /// Calls `f` with every slot that was ever used.
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
            s.job.done();
            vacate(s, s.job.request());
        }
    }

    std::size_t most_requests_;
    std::uint64_t most_bytes_;
    std::uint64_t status_bytes_;
    bool serializes_;
    std::deque<Slot> slots_;  ///< added on demand, never moved
    Slot* free_ = nullptr;
    Slot* due_ = nullptr;
    Slot* last_due_ = nullptr;
    Slot* sending_ = nullptr;
    std::size_t under_way_ = 0;
    bool resizing_ = false;  ///< the request that occupied a slot last, and so the only one
    std::uint64_t bytes_ = 0;
};

}  // namespace nbd::session
