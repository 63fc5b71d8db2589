// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/error_value.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/inbox.hpp>
#include <nbd/session/outbox.hpp>
#include <nbd/transmission/admission.hpp>
#include <nbd/transmission/execution.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <system_error>

namespace nbd::session {

/// The in-order transmission of one client, less its waiting: takes received bytes, calls the
/// backend, gathers replies. `transmit` does the I/O that it asks for.
///
/// Everything that is buffered is answered before the next wait, in one send where it fits.
template <class Opened, class Observer>
class responder {
public:
    /// What is due after all of `out()` has been sent.
    enum class step {
        receive,  ///< receive into `space()`, say how much to `received`, then advance again
        again,    ///< advance again: there was no room for more replies
        finish,   ///< close
    };

    responder(Opened& disk, context<Observer>& c) : disk_{disk}, context_{c} {}

    [[nodiscard]] outbox& out() noexcept { return out_; }

    /// Where the next bytes belong: the rest of a large payload goes straight to its place.
    [[nodiscard]] std::span<std::byte> space() noexcept
    {
        return payload_.empty() ? in_.space() : payload_;
    }
    void received(std::size_t n) noexcept
    {
        if (payload_.empty())
            in_.received(n);
        else
            payload_ = payload_.subspan(n);
    }

    /// A message has begun and not ended, so the client owes bytes.
    [[nodiscard]] bool mid_message() const noexcept
    {
        return !payload_.empty() || skip_ != 0 || !in_.buffered().empty();
    }

    /// Answers all that is buffered. Requires that `out()` is empty.
    [[nodiscard]] step advance()
    {
        for (;;) {
            if (!payload_.empty() || !skip())
                return step::receive;
            if (writing_)
                finish_write();
            const auto bytes = in_.buffered();
            if (bytes.size() < protocol::request_bytes)
                return step::receive;
            const auto r = protocol::decode_request(bytes.template first<protocol::request_bytes>());
            if (!r) {
                context_.ended = errc::bad_request_magic;
                return step::finish;
            }
            if (r->payload() <= buffered_payload
                && bytes.size() - protocol::request_bytes < r->payload())
                return step::receive;
            if (!out_.fits(reply_room(*r), 1))
                return step::again;
            in_.consume(protocol::request_bytes);
            notify::at_request(context_.observer, context_.who, *r);
            if (r->command == protocol::command::disc)
                return step::finish;
            if (r->payload() > transmission::longest_payload(disk_.terms())) {
                context_.ended = errc::payload_too_long;
                return step::finish;
            }
            if (const auto refused = admit(*r); refused != protocol::error_value::none) {
                skip_ = r->payload();
                reply(*r, refused);
            } else if (r->command == protocol::command::read) {
                if (!answer_read(*r))
                    return step::again;
            } else if (r->command == protocol::command::write) {
                answer_write(*r);
            } else {
                answer(*r, perform(*r, {}));
            }
        }
    }

private:
    using backend_type = typename Opened::backend_type;

    /// A payload up to this is taken from the inbox, whole; a longer one is received in place.
    static constexpr std::size_t buffered_payload = std::size_t{64} << 10;
    /// Holds the largest such WRITE and many small requests beside it.
    static constexpr std::size_t inbox_bytes = 2 * buffered_payload;
    /// Room for the replies of one send that are copied behind their headers.
    static constexpr std::size_t outbox_bytes = (std::size_t{128} << 10) + 2048;
    /// Data up to this are cheaper copied behind their header than gathered as a piece of their own.
    static constexpr std::size_t copied_data = std::size_t{8} << 10;
    /// Scratch memory above this is given back after its request.
    static constexpr std::size_t kept_scratch = std::size_t{1} << 20;

    /// Refuses without the backend: the export is gone, the server stops, the request is not good.
    [[nodiscard]] protocol::error_value admit(const protocol::request& r) const noexcept
    {
        if (context_.stopping.load(std::memory_order_relaxed) || disk_.gone())
            return protocol::error_value::eshutdown;
        return transmission::admit(r, disk_.terms());
    }

    /// Bytes of its own that the outbox needs for this reply.
    [[nodiscard]] static std::size_t reply_room(const protocol::request& r) noexcept
    {
        const bool data = r.command == protocol::command::read && r.length <= largest_inline_read();
        return protocol::simple_reply_bytes + (data ? static_cast<std::size_t>(r.length) : 0);
    }
    [[nodiscard]] static constexpr std::size_t largest_inline_read() noexcept
    {
        return has_lend<backend_type> ? copied_data : outbox_bytes - protocol::simple_reply_bytes;
    }

    void reply(const protocol::request& r, protocol::error_value error) noexcept
    {
        encode(out_.append(protocol::simple_reply_bytes), r, error);
    }
    void encode(std::span<std::byte> to, const protocol::request& r,
                protocol::error_value error) noexcept
    {
        protocol::encode_reply(to.template first<protocol::simple_reply_bytes>(),
                               {.error = error, .cookie = r.cookie});
        notify::at_reply(context_.observer, context_.who, r, error);
    }

    [[nodiscard]] protocol::error_value error_of(const protocol::request& r,
                                                 std::error_code failed) noexcept
    {
        if (!failed)
            return protocol::error_value::none;
        notify::at_error(context_.observer, context_.who, failed, "the backend failed");
        return r.has(protocol::command_flag::fast_zero) ? protocol::fast_zero_error(failed)
                                                        : protocol::to_error_value(failed);
    }
    void answer(const protocol::request& r, std::error_code failed) noexcept
    {
        reply(r, error_of(r, failed));
    }

    /// A request of no length has nothing to do, and succeeds without the backend (point 68).
    [[nodiscard]] std::error_code perform(const protocol::request& r,
                                          std::span<const std::byte> payload) noexcept
    {
        if (r.length == 0 && r.command != protocol::command::flush)
            return {};
        [[maybe_unused]] const auto lock = disk_.lock();
        return transmission::perform(disk_.backend(), r, payload);
    }

    /// False where the reply must be sent before another is made.
    [[nodiscard]] bool answer_read(const protocol::request& r)
    {
        const auto length = static_cast<std::size_t>(r.length);
        if constexpr (has_lend<backend_type>) {
            const std::span<const std::byte> lent = disk_.backend().lend(r.offset, length);
            if (lent.size() == length) {
                reply(r, protocol::error_value::none);
                if (length <= copied_data)
                    std::copy(lent.begin(), lent.end(), out_.append(length).begin());
                else
                    out_.lend(lent);
                return true;
            }
        }
        if (length <= largest_inline_read()) {
            const auto room = out_.append(protocol::simple_reply_bytes + length);
            const auto error = error_of(r, read(r, room.subspan(protocol::simple_reply_bytes)));
            encode(room, r, error);
            if (error != protocol::error_value::none)
                out_.retract(length);
            return true;
        }
        // "READ": an error MUST NOT follow a success header, so the data come first.
        const auto to = scratch(length);
        const auto error = error_of(r, read(r, to));
        reply(r, error);
        if (error == protocol::error_value::none)
            out_.lend(to);
        return false;
    }
    [[nodiscard]] std::error_code read(const protocol::request& r, std::span<std::byte> to) noexcept
    {
        if (to.empty())
            return {};
        [[maybe_unused]] const auto lock = disk_.lock();
        return transmission::read(disk_.backend(), r, to);
    }

    void answer_write(const protocol::request& r)
    {
        const auto length = static_cast<std::size_t>(r.length);
        if (length <= buffered_payload) {
            answer(r, perform(r, in_.buffered().first(length)));
            in_.consume(length);
            return;
        }
        writing_ = large_write{r, {}};
        if constexpr (has_lend_for_write<backend_type>) {
            // What is received in place can only be made durable by a flush.
            if (has_flush<backend_type> || !r.has(protocol::command_flag::fua))
                payload_ = disk_.backend().lend_for_write(r.offset, length);
        }
        if (payload_.size() != length)
            payload_ = writing_->collected = scratch(length);
        const auto early = in_.buffered().first(std::min(in_.buffered().size(), length));
        std::copy(early.begin(), early.end(), payload_.begin());
        payload_ = payload_.subspan(early.size());
        in_.consume(early.size());
    }

    /// The payload of a large WRITE has arrived.
    void finish_write() noexcept
    {
        const auto& r = writing_->request;
        if (!writing_->collected.empty()) {
            answer(r, perform(r, writing_->collected));
        } else {
            std::error_code failed;
            if constexpr (has_flush<backend_type>) {
                if (r.has(protocol::command_flag::fua)) {
                    [[maybe_unused]] const auto lock = disk_.lock();
                    failed = transmission::outcome_of([&] { return disk_.backend().flush(); });
                }
            }
            answer(r, failed);
        }
        writing_.reset();
        give_back_scratch();
    }

    /// Consumes what is left of a refused payload. True when none is.
    [[nodiscard]] bool skip() noexcept
    {
        const auto n = std::min<std::uint64_t>(skip_, in_.buffered().size());
        in_.consume(static_cast<std::size_t>(n));
        skip_ -= n;
        return skip_ == 0;
    }

    [[nodiscard]] std::span<std::byte> scratch(std::size_t n)
    {
        give_back_scratch();
        if (scratch_bytes_ < n) {
            scratch_.reset();
            scratch_bytes_ = 0;
            scratch_ = std::make_unique_for_overwrite<std::byte[]>(n);
            scratch_bytes_ = n;
        }
        return {scratch_.get(), n};
    }
    void give_back_scratch() noexcept
    {
        if (scratch_bytes_ > kept_scratch) {
            scratch_.reset();
            scratch_bytes_ = 0;
        }
    }

    struct large_write {
        protocol::request request;
        std::span<std::byte> collected;  ///< scratch that holds the payload; empty: in its place
    };

    Opened& disk_;
    context<Observer>& context_;
    inbox in_{inbox_bytes};
    outbox out_{outbox_bytes};
    std::uint64_t skip_ = 0;             ///< bytes of a refused payload that are still to come
    std::span<std::byte> payload_;       ///< where the rest of a large payload goes
    std::optional<large_write> writing_;
    std::unique_ptr<std::byte[]> scratch_;
    std::size_t scratch_bytes_ = 0;
};

}  // namespace nbd::session
