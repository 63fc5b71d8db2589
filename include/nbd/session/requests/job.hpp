// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/agreement.hpp>
#include <nbd/session/buffers/block.hpp>
#include <nbd/session/requests/read_answer.hpp>
#include <nbd/session/requests/replies.hpp>
#include <nbd/transmission/execution.hpp>
#include <nbd/transmission/plan.hpp>
#include <nbd/transmission/read_plan.hpp>
#include <nbd/transmission/status_plan.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

namespace nbd::session {

/// One request that is under way while others are: its calls, its memory and its reply. Made once and
/// used again and again. Not safe for threads; whoever makes its calls has it to himself meanwhile.
template <class Opened, class Observer>
class job {
public:
    using backend_type = typename Opened::backend_type;

    /// Begins a request that was admitted. A WRITE's payload is copied, or received to `memory()` then.
    void begin(const protocol::request& r, const protocol::export_terms& terms,
               const handshake::agreement& agreed, const replies<Observer>& to,
               std::span<const std::byte> payload, std::size_t most_extents)
    {
        using protocol::command;
        request_ = r;
        refused_.reset();
        said_.reset();
        lent_ = {};
        switch (r.command) {
        case command::read:
            memory_ = block{static_cast<std::size_t>(r.length)};
            read_.begin(r, read_answer<Opened, Observer>::template sparse<backend_type>(r, to));
            break;
        case command::block_status:
            refused_ =
                status_.begin(r, terms, agreed.contexts, agreed.style, payload, most_extents);
            break;
        default:
            memory_ = block{static_cast<std::size_t>(r.payload())};
            if (r.command == command::write)
                std::copy(payload.begin(), payload.end(), memory().begin());
            plan_.emplace(r, transmission::largest_write(terms));
        }
    }
    /// Begins a READ whose data are lent, so that there is nothing to call.
    void begin(const protocol::request& r, std::span<const std::byte> lent)
    {
        request_ = r;
        refused_.reset();
        said_.reset();
        lent_ = lent;
    }
    /// The same with what the backend lends. False where it lends nothing.
    [[nodiscard]] bool begin_lent([[maybe_unused]] backend_type& disk, const protocol::request& r)
    {
        if constexpr (has_lend<backend_type>) {
            if (r.command != protocol::command::read || r.length == 0)
                return false;
            const auto length = static_cast<std::size_t>(r.length);
            const std::span<const std::byte> memory = disk.lend(r.offset, length);
            if (memory.size() != length)
                return false;
            begin(r, memory);
            return true;
        }
        return false;
    }
    /// Begins a request that is refused, with nothing to call.
    void refuse(const protocol::request& r, protocol::error_value why)
    {
        request_ = r;
        said_.reset();
        refused_ = refusal{why, transmission::explain(why)};
    }
    /// A request whose outcome is known, with nothing to call.
    void answered(const protocol::request& r, failure outcome)
    {
        request_ = r;
        refused_.reset();
        said_ = std::move(outcome);
    }

    [[nodiscard]] const protocol::request& request() const noexcept { return request_; }
    /// As long as the payload of a WRITE, or the data of a READ.
    [[nodiscard]] std::span<std::byte> memory() const noexcept
    {
        const bool reads = request_.command == protocol::command::read;
        return memory_.first(
            static_cast<std::size_t>(reads ? request_.length : request_.payload()));
    }

    // --- its calls: a plan, see transmission/plan.hpp -------------------------------------------

    [[nodiscard]] std::optional<transmission::step> next() const noexcept
    {
        if (refused_ || said_ || !lent_.empty())
            return std::nullopt;
        switch (request_.command) {
        case protocol::command::read:
            return read_.next();
        case protocol::command::block_status:
            return status_.next();
        default:
            return plan_->next();
        }
    }
    void take(failure failed)
    {
        switch (request_.command) {
        case protocol::command::read:
            return read_.take(std::move(failed));
        case protocol::command::block_status:
            return status_.take(std::move(failed));
        default:
            return plan_->take(std::move(failed));
        }
    }
    [[nodiscard]] transmission::request_data request_data() noexcept
    {
        const bool reads = request_.command == protocol::command::read;
        return {.request = &request_,
                .payload = reads ? std::span<const std::byte>{} : memory(),
                .data = reads ? memory() : std::span<std::byte>{},
                .extents = reads ? &read_.list() : &status_.list()};
    }

    // --- its reply, when there is no next call --------------------------------------------------

    /// Whether the reply can be added to what is gathered already.
    [[nodiscard]] bool fits(replies<Observer>& to) const noexcept
    {
        const bool reads = request_.command == protocol::command::read && !refused_ && !said_;
        if (reads && lent_.empty() && read_.has_holes())
            return to.out().empty();
        return to.fits(reads ? request_.length : 0,
                       reads ? std::min<std::size_t>(to.copied_data, request_.length) : 0);
    }

    /// Adds the reply; what it lends is kept until the job is done with.
    void answer(replies<Observer>& to)
    {
        const auto& r = request_;
        if (refused_) {
            to.error(r, refused_->value, refused_->text);
        } else if (said_) {
            to.answer(r, *said_);
        } else if (!lent_.empty()) {
            to.data(r, lent_);
        } else if (r.command == protocol::command::block_status) {
            to.status(r, status_.result(), status_.reply());
        } else if (r.command != protocol::command::read) {
            to.answer(r, plan_->result());
        } else if (read_.result()) {
            to.fail(r, read_.result());
        } else if (r.length == 0) {
            to.done(r);
        } else if (read_.has_holes()) {
            to.pieces(r, read_.pieces(), [&](std::uint64_t at, std::size_t n) -> lent_data {
                return memory().subspan(static_cast<std::size_t>(at - r.offset), n);
            });
        } else {
            to.data(r, memory());
        }
    }

    /// The reply has been sent, or never will be.
    void done() noexcept
    {
        memory_ = {};
        status_.give_back();
    }

private:
    using refusal = typename transmission::status_plan<backend_type>::refusal;

    protocol::request request_;
    block memory_;
    std::span<const std::byte> lent_;
    std::optional<refusal> refused_;
    std::optional<failure> said_;
    std::optional<transmission::plan<backend_type>> plan_;
    transmission::read_plan<backend_type> read_;
    transmission::status_plan<backend_type> status_;
};

}  // namespace nbd::session
