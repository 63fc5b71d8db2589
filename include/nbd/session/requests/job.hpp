// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/agreement.hpp>
#include <nbd/session/buffers/request_memory.hpp>
#include <nbd/session/requests/intake.hpp>
#include <nbd/session/requests/reading.hpp>
#include <nbd/session/requests/replies.hpp>
#include <nbd/transmission/execution.hpp>
#include <nbd/transmission/plan.hpp>
#include <nbd/transmission/status_plan.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace nbd::session {

/// What all requests of one client use.
template <class Opened, class Observer>
struct exchange {
    using opened_type = Opened;
    using intake_type = intake<Opened, Observer>;
    using status_type = transmission::status_plan<typename Opened::backend_type>;

    /// `sends_files`: the stream can send parts of files.
    exchange(Opened& d, const handshake::agreement& a, context<Observer>& c, bool sends_files_)
        : disk{d}, agreed{a}, limits{c.limits}, in{d, a, c},
          out{c, a.style, reading<Opened, Observer, true>::outbox_bytes}, memory{c.memory},
          most_extents{status_type::fitting_extents(a.contexts.size(), a.style,
                                                    c.limits.extents_per_reply,
                                                    c.memory.most_for_requests())},
          sends_files{sends_files_}
    {
    }

    Opened& disk;
    const handshake::agreement& agreed;
    const settings& limits;
    intake_type in;
    replies<Observer> out;
    client_memory& memory;
    const std::size_t most_extents;  ///< of one context in a reply to BLOCK_STATUS
    const bool sends_files;
};

/// One request, from its admission to its reply: its memory, its calls of the backend, its reply.
/// Both loops use it in this order: `begin`; for a large WRITE `payload_arrived`; the calls;
/// `answer`; and `done` when the reply was sent. The next request reuses the object.
///
/// `at_once`: the loop answers the request before it begins the next one.
/// Thread safety: one thread at a time.
template <class Opened, class Observer, bool at_once>
class job {
public:
    using backend_type = typename Opened::backend_type;
    using exchange_type = exchange<Opened, Observer>;
    using intake_type = typename exchange_type::intake_type;
    using reading_type = reading<Opened, Observer, at_once>;

    enum class beginning {
        begun,
        refused,  ///< by the intake: no memory, or the server stops
        waits,    ///< wait for `memory_wanted()`, call `charged`, then `begin_charged`
    };
    /// Begins the request that the intake has admitted. Takes its payload, or starts to receive a
    /// large one.
    [[nodiscard]] beginning begin(exchange_type& x) noexcept
    {
        memory_.release();
        return begin_with_memory(x);
    }
    /// Begins again after the wait. Without a charge, the server stops or the connection is closed:
    /// refuses the request with ESHUTDOWN.
    [[nodiscard]] beginning begin_charged(exchange_type& x) noexcept
    {
        if (memory_.charged() >= memory_wanted())
            return begin_with_memory(x);
        x.in.refuse(protocol::error_value::eshutdown);
        return beginning::refused;
    }
    [[nodiscard]] std::size_t memory_wanted() const noexcept { return memory_.wanted(); }
    void charged(charge granted) noexcept { memory_.adopt(std::move(granted)); }
    /// Refuses a request, before or after its beginning.
    void refuse(const observed_request<Observer>& r, replies<Observer>& to,
                protocol::error_value why) noexcept
    {
        request_ = r;
        to_ = &to;
        refuse(why, transmission::explain(why));
    }
    void refuse(protocol::error_value why) noexcept { refuse(why, transmission::explain(why)); }
    /// Ends the request with this outcome. The remaining calls are not made.
    void settle(failure outcome) noexcept
    {
        drop();
        outcome_ = std::move(outcome);
        kind_ = kind::settled;
    }
    /// A large payload is being received. Call `payload_arrived` when `in.receiving()` is false.
    [[nodiscard]] bool awaits_payload() const noexcept { return awaits_payload_; }
    void payload_arrived(exchange_type& x) noexcept
    {
        awaits_payload_ = false;
        if (const auto why = x.in.still_admitted(request_); why != protocol::error_value::none) {
            refuse(why);
            return;
        }
        if (memory_.allocated())
            return;
        if constexpr (has_lent_written<backend_type>)
            x.disk.backend().lent_written(request_.offset,
                                          static_cast<std::size_t>(request_.length));
        plan_.emplace(transmission::plan<backend_type>::of_written(request_));
    }

    [[nodiscard]] const protocol::request& request() const noexcept { return request_; }

    // --- its calls: a plan, see transmission/plan.hpp -------------------------------------------

    [[nodiscard]] std::optional<transmission::backend_call> next() const noexcept
    {
        switch (kind_) {
        case kind::read:
            return reading_.next();
        case kind::status:
            return status_.next();
        case kind::plain:
            return plan_->next();
        default:
            return std::nullopt;
        }
    }
    void completed(failure&& outcome) noexcept
    {
        try {
            switch (kind_) {
            case kind::read:
                reading_.completed(std::move(outcome));
                if (!reading_.next())
                    memory_.settle();
                return;
            case kind::status:
                status_.completed(std::move(outcome));
                if (!status_.next())
                    memory_.settle(status_.keep_reply());
                return;
            case kind::plain:
                return plan_->completed(std::move(outcome));
            default:
                return;
            }
        } catch (...) {  // out of memory
            refuse(protocol::error_value::enomem);
        }
    }
    /// The memory for the call that `next` names.
    [[nodiscard]] transmission::request_data data() noexcept
    {
        const bool reads = kind_ == kind::read;
        return {.request = &request_,
                .payload = payload_,
                .data = reads ? reading_.data() : std::span<std::byte>{},
                .extents = reads ? &reading_.list() : &status_.list()};
    }
    /// Makes calls of a synchronous backend on this thread, see transmission::make_some. Returns
    /// false if other requests should use the thread first; call it again then.
    template <class Over>
    [[nodiscard]] bool make_calls(Opened& disk, Over&& over) noexcept
    {
        if (is_resize()) {
            resize(disk);
            return true;
        }
        return transmission::make_some(
            disk.backend(), *this, [this] { return data(); }, disk, over);
    }
    /// A RESIZE is a call of the export, not of the backend. If it is awaited, see
    /// opened_export::async_resize and `settle`.
    [[nodiscard]] bool is_resize() const noexcept { return kind_ == kind::resize; }
    void resize(Opened& disk) noexcept { settle(disk.resize(request_.offset)); }

    // --- its reply, when there is no next call --------------------------------------------------

    /// Whether the reply fits into the outbox.
    [[nodiscard]] bool fits() const noexcept
    {
        return kind_ == kind::read ? reading_.fits() : to_->fits(0, 0);
    }
    /// Takes the memory of the outbox for the reply. Requires that it fits. Errors: std::bad_alloc.
    void reserve() { kind_ == kind::read ? reading_.reserve() : to_->reserve(); }
    /// Adds the reply to the outbox, after `reserve`. The reply may refer to memory of the request.
    void answer()
    {
        begun_ = false;
        switch (kind_) {
        case kind::refused:
            return to_->error(request_, refusal_.value, refusal_.text);
        case kind::settled:
            return to_->answer(request_, outcome_);
        case kind::read:
            return reading_.answer();
        case kind::status:
            return to_->status(request_, status_.result(), status_.reply());
        default:
            return to_->answer(request_, plan_->result());
        }
    }
    /// Whether the reply must be sent before the next request may use this object.
    [[nodiscard]] bool must_be_sent_first() const noexcept
    {
        return kind_ == kind::status || (kind_ == kind::read && reading_.must_be_sent_first());
    }
    /// The reply was sent, or cannot be sent.
    void done() noexcept
    {
        memory_.release();
        payload_ = {};
        status_.give_back();
    }

private:
    enum class kind { refused, settled, read, status, resize, plain };
    using refusal = typename transmission::status_plan<backend_type>::refusal;

    [[nodiscard]] beginning begin_with_memory(exchange_type& x) noexcept
    {
        request_ = x.in.request();
        to_ = &x.out;
        try {
            begun_ = start(x);
            if (begun_)
                return beginning::begun;
            if (memory_wanted() <= x.memory.most_for_requests())
                return beginning::waits;
        } catch (...) {  // out of memory
        }
        done();
        x.in.refuse(protocol::error_value::enomem);
        return beginning::refused;
    }
    /// False if the request has to wait for memory.
    [[nodiscard]] bool start(exchange_type& x)
    {
        using protocol::command;
        const auto& r = request_;
        switch (r.command) {
        case command::read:
            kind_ = kind::read;
            return reading_.begin(r, x.disk, x.out, x.sends_files, memory_, x.memory,
                                  x.in.terms().blocks.minimum);
        case command::block_status: {
            if (!memory_.reserve_bytes(
                    x.memory,
                    exchange_type::status_type::most_bytes(r, x.agreed.contexts.size(),
                                                           x.agreed.style, x.most_extents)))
                return false;
            const auto refused = status_.begin(r, x.in.terms(), x.agreed.contexts, x.agreed.style,
                                               x.in.payload(), x.most_extents);
            x.in.consume_payload();
            kind_ = kind::status;
            if (refused)
                refuse(refused->value, refused->text);
            return true;
        }
        case command::resize:
            kind_ = kind::resize;
            return true;
        default:
            if (!take_payload(x))
                return false;
            plan_.emplace(r, transmission::largest_write(x.in.terms()));
            kind_ = kind::plain;
            return true;
        }
    }

    [[nodiscard]] bool take_payload(exchange_type& x)
    {
        payload_ = {};
        const auto length = static_cast<std::size_t>(request_.payload());
        if (length > intake_type::buffered_payload)
            return receive_payload(x, length);
        if (length == 0)
            return true;
        payload_ = x.in.payload();
        if constexpr (!at_once) {  // the next receive overwrites the payload
            if (!memory_.reserve(x.memory, length))
                return false;
            memory_.allocate(length);
            const auto to = memory_.first(length);
            std::copy(payload_.begin(), payload_.end(), to.begin());
            payload_ = to;
        }
        x.in.consume_payload();
        return true;
    }
    /// Receives a large payload into memory that the backend lends, or into memory of the request.
    [[nodiscard]] bool receive_payload(exchange_type& x, std::size_t length)
    {
        std::span<std::byte> to;
        if constexpr (at_once && has_lend_for_write<backend_type>) {
            // Only a flush makes durable what is received in place.
            if (has_flush<backend_type> || !request_.has(protocol::command_flag::fua))
                to = x.disk.backend().lend_for_write(request_.offset, length);
        }
        if (to.size() != length) {
            if (!memory_.reserve(x.memory, length))
                return false;
            memory_.allocate(length);
            to = memory_.first(length);
        }
        payload_ = to;
        awaits_payload_ = true;
        x.in.receive_into(to);
        return true;
    }

    void refuse(protocol::error_value why, std::string_view text) noexcept
    {
        drop();
        refusal_ = {why, text};
        kind_ = kind::refused;
    }
    /// Discards a prepared reply; another one is sent.
    void drop() noexcept
    {
        if (begun_ && kind_ == kind::read)
            reading_.drop();
    }

    kind kind_ = kind::refused;
    bool begun_ = false;  ///< the request has begun and is not answered
    observed_request<Observer> request_;
    replies<Observer>* to_ = nullptr;
    request_memory memory_;  ///< for a payload, or for data that the backend does not lend
    std::span<const std::byte> payload_;  ///< of a WRITE
    bool awaits_payload_ = false;
    refusal refusal_;
    failure outcome_;
    std::optional<transmission::plan<backend_type>> plan_;
    reading_type reading_;
    transmission::status_plan<backend_type> status_;
};

}  // namespace nbd::session
