// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/agreement.hpp>
#include <nbd/session/buffers/inbox.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/requests/replies.hpp>
#include <nbd/session/requests/unflagged_writes.hpp>
#include <nbd/transmission/admission.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nbd::session {

/// Received bytes become requests that were admitted, in their order; what a refused one carries is
/// consumed, in bounded memory.
///
/// Ask `next`; where it has found a request, `take` it, and its payload after that.
template <class Opened, class Observer>
class intake {
public:
    enum class step {
        request,  ///< `request()` may be taken
        refused,  ///< `request()` was refused for `why()`, and is to be answered so
        receive,  ///< receive into `space()`, and say how much to `received`
        linger,   ///< see whether more comes within a moment, and say so to `lingered`
        finish,   ///< close: the stream is out of step
    };
    enum class verdict {
        admitted,
        refused,  ///< `next` will say so when it is time to answer
        leave,    ///< close: DISC, or a payload that is an attack
    };

    /// A payload up to this is taken from the inbox, whole; a longer one is received in place.
    static constexpr std::size_t buffered_payload = std::size_t{64} << 10;

    intake(Opened& disk, const handshake::agreement& agreed, context<Observer>& c)
        : disk_{disk}, context_{c}, terms_{agreed.terms},
          header_bytes_{protocol::request_bytes_of(agreed.style)}
    {
    }

    /// Where the next bytes belong: the rest of a large payload goes straight to its place.
    [[nodiscard]] std::span<std::byte> space()
    {
        return payload_.empty() ? in_.space(wanted_) : payload_;
    }
    void received(std::size_t n) noexcept
    {
        if (payload_.empty())
            in_.received(n);
        else
            payload_ = payload_.subspan(n);
    }
    void lingered(bool more) noexcept { unflagged_.lingered(more); }

    /// A message has begun and not ended, so the client owes bytes.
    [[nodiscard]] bool mid_message() const noexcept
    {
        return !payload_.empty() || skip_ != 0 || !in_.buffered().empty();
    }
    /// The large payload has not arrived.
    [[nodiscard]] bool receiving() const noexcept { return !payload_.empty(); }
    /// More memory is held than an idle client needs.
    [[nodiscard]] bool holds_much() const noexcept
    {
        return in_.is_large() && in_.buffered().empty();
    }
    void shrink() noexcept { in_.shrink(); }
    /// How many requests are buffered, if they have no payload.
    [[nodiscard]] std::size_t requests_buffered() const noexcept
    {
        return in_.buffered().size() / header_bytes_;
    }

    [[nodiscard]] const protocol::request& request() const noexcept { return request_; }
    [[nodiscard]] protocol::error_value why() const noexcept { return why_; }
    [[nodiscard]] const protocol::export_terms& terms() const noexcept { return terms_; }

    [[nodiscard]] step next() noexcept
    {
        using protocol::error_value;
        if (receiving() || !skip())
            return step::receive;
        // Not before its payload is gone: a client that still sends a request does not know yet that
        // there could be a reply to it.
        if (refused_) {
            refused_ = false;
            return step::refused;
        }
        const auto bytes = in_.buffered();
        wanted_ = header_bytes_;
        if (bytes.size() < header_bytes_)
            return step::receive;
        const auto r = decode(bytes);
        if (!r) {
            context_.ended = errc::bad_request_magic;
            return step::finish;
        }
        request_ = *r;
        if (unflagged_.concern(request_, transmission::longest_payload(terms_))) {
            const auto kind = unflagged_.judge(request_, bytes.subspan(header_bytes_));
            if (kind == unflagged_writes::verdict::linger)
                return step::linger;
            if (kind == unflagged_writes::verdict::receive)
                return step::receive;
            if (kind == unflagged_writes::verdict::payload)
                request_.flags |= protocol::command_flag::payload_len;
        }
        if (request_.payload() <= buffered_payload
            && bytes.size() - header_bytes_ < request_.payload()) {
            wanted_ = header_bytes_ + static_cast<std::size_t>(request_.payload());
            return step::receive;
        }
        return step::request;
    }

    [[nodiscard]] verdict take()
    {
        in_.consume(header_bytes_);
        wanted_ = header_bytes_;
        notify::at_request(context_.observer, context_.who, request_);
        if (request_.command == protocol::command::disc)
            return verdict::leave;
        if (request_.payload() > transmission::longest_payload(terms_)) {
            context_.ended = errc::payload_too_long;
            return verdict::leave;
        }
        why_ = admit();
        if (why_ == protocol::error_value::none)
            return verdict::admitted;
        skip_ = request_.payload();
        refused_ = true;
        return verdict::refused;
    }

    /// The payload of the request that was taken, where it is no longer than buffered_payload.
    [[nodiscard]] std::span<const std::byte> payload() const noexcept
    {
        return in_.buffered().first(static_cast<std::size_t>(request_.payload()));
    }
    void consume_payload() noexcept { in_.consume(static_cast<std::size_t>(request_.payload())); }

    /// Whether a WRITE whose payload has taken its time is still good: its export may have been removed or
    /// made smaller meanwhile.
    [[nodiscard]] protocol::error_value still_admitted(const protocol::request& r) const noexcept
    {
        if (disk_.gone())
            return protocol::error_value::eshutdown;
        return transmission::inside(r, disk_.size()) ? protocol::error_value::none
                                                     : protocol::error_value::enospc;
    }

    /// A longer one goes to `to`, which is as long as it; until then there is no next.
    void receive_into(std::span<std::byte> to) noexcept
    {
        const auto early = in_.buffered().first(std::min(in_.buffered().size(), to.size()));
        std::copy(early.begin(), early.end(), to.begin());
        in_.consume(early.size());
        payload_ = to.subspan(early.size());
    }

private:
    /// Holds the largest payload that it takes and many small requests beside it.
    static constexpr std::size_t inbox_bytes = 2 * buffered_payload;

    [[nodiscard]] std::optional<protocol::request>
    decode(std::span<const std::byte> bytes) const noexcept
    {
        if (header_bytes_ == protocol::request_bytes)
            return protocol::decode_request(bytes.template first<protocol::request_bytes>());
        return protocol::decode_extended_request(
            bytes.template first<protocol::extended_request_bytes>());
    }

    /// Refuses without the backend: the export is gone, the server stops, the request is not good.
    [[nodiscard]] protocol::error_value admit() noexcept
    {
        if (context_.over() || disk_.gone())
            return protocol::error_value::eshutdown;
        terms_.size = disk_.size();
        terms_.told = std::max(terms_.told, terms_.size);
        // An export may allow more than one reply can be made of.
        if (request_.command == protocol::command::read
            && request_.length > replies<Observer>::largest_read)
            return request_.has(protocol::command_flag::df) ? protocol::error_value::eoverflow
                                                            : protocol::error_value::einval;
        // No good payload but a WRITE's is that long.
        if (request_.command != protocol::command::write && request_.payload() > buffered_payload)
            return protocol::error_value::einval;
        if (const auto why = transmission::admit(request_, terms_);
            why != protocol::error_value::none)
            return why;
        // "READ": with DF it is one chunk, or EOVERFLOW (point 59).
        return request_.has(protocol::command_flag::df)
                && request_.length > replies<Observer>::largest_chunk
            ? protocol::error_value::eoverflow
            : protocol::error_value::none;
    }

    /// Consumes what is left of a refused payload. True when none is.
    [[nodiscard]] bool skip() noexcept
    {
        const auto n = std::min<std::uint64_t>(skip_, in_.buffered().size());
        in_.consume(static_cast<std::size_t>(n));
        skip_ -= n;
        return skip_ == 0;
    }

    Opened& disk_;
    context<Observer>& context_;
    protocol::export_terms terms_;
    const std::size_t header_bytes_;
    inbox in_{inbox_bytes};
    std::size_t wanted_ = 0;  ///< bytes that must fit in one piece
    unflagged_writes unflagged_;
    protocol::request request_;
    protocol::error_value why_{};
    bool refused_ = false;
    std::uint64_t skip_ = 0;        ///< bytes of a refused payload that are still to come
    std::span<std::byte> payload_;  ///< where the rest of a large payload goes
};

}  // namespace nbd::session
