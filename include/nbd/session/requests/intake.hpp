// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/agreement.hpp>
#include <nbd/io/busy_poll.hpp>
#include <nbd/io/layered.hpp>
#include <nbd/session/buffers/inbox.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/requests/replies.hpp>
#include <nbd/session/requests/unflagged_writes.hpp>
#include <nbd/transmission/admission.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

namespace nbd::session {

/// Receives the requests of one client and admits them, in order. The payload of a refused request
/// is received and discarded in bounded memory.
///
/// `next` says what to do. It finds a request: call `accept`, then take the payload. It needs
/// bytes: await `begin_receive` and pass the result to `end_receive`.
template <class Opened, class Observer>
class intake {
public:
    enum class finding {
        complete,  ///< `request()` is there; call `accept`
        refusal,   ///< the refused `request()` is there to its end; reply with the error `why()`
        receive,   ///< more bytes are needed
        linger,    ///< find out whether bytes arrive within a moment, and pass that to `lingered`
        close,     ///< the stream is out of step
    };
    enum class decision {
        admitted,
        refused,  ///< `next` finds the refusal when its payload is discarded
        leave,    ///< close: a DISC, or a payload that is too long to discard
    };

    /// A payload of up to this many bytes is taken from the inbox. A longer one is received in
    /// place.
    static constexpr std::size_t buffered_payload = std::size_t{64} << 10;
    /// The moment of `finding::linger`.
    static constexpr std::chrono::milliseconds linger_time{200};

    intake(Opened& disk, const handshake::agreement& agreed, context<Observer>& c)
        : disk_{disk}, context_{c}, terms_{agreed.terms},
          header_bytes_{protocol::request_bytes_of(agreed.style)},
          poll_{std::clamp<std::chrono::microseconds>(c.limits.busy_poll, std::chrono::seconds{0},
                                                      std::chrono::seconds{1})}
    {
    }

    // --- bytes ----------------------------------------------------------------------------------

    /// Arms the deadline of the next bytes and starts to receive them. Await what it returns.
    /// - `idle`: the server owes the client no reply, so a wait between two requests is idle time.
    template <class Io, class Stream>
    [[nodiscard]] auto begin_receive(Io& io, Stream& stream, bool idle)
    {
        between_requests_ = !mid_message();
        if (!between_requests_) {
            if (!std::exchange(in_transfer_, true))
                context_.deadline.begin_transfer();
            context_.arm_message();
        } else if (idle) {
            arm_idle();
        }
        if constexpr (io::on_socket<Stream>) {
            if (in_.holds_much() && (context_.memory.scarce() || io.must_wait(stream)))
                shrink();
        }
        if (between_requests_ && idle && !in_.is_large())
            rest();
        const auto to = space();
        // A client that has to pause is received to the end of this message only: if the beginning
        // of the next one were always there, the client would never be idle.
        const auto n = must_pause() ? std::min(to.size(), missing()) : to.size();
        return io.template read_some<block>(stream, boost::asio::buffer(to.data(), n), poll_);
    }
    /// The result of that. False at the end of the stream; `context.ended` says why it ended.
    [[nodiscard]] bool end_receive(const boost::system::error_code& error, std::size_t n) noexcept
    {
        between_requests_ = false;
        poll_.wait_ended();
        context_.deadline.disarm();
        context_.deadline.moved(n);
        received(n);
        if (!error)
            return true;
        if (context_.ended)
            return false;
        if (error != boost::asio::error::eof)
            context_.ended = error;
        else if (mid_message())
            context_.ended = errc::cut_short;
        return false;
    }
    /// Starts the idle time of a receive that began when the server still owed a reply.
    void now_idle() noexcept
    {
        if (!between_requests_)
            return;
        arm_idle();
        if (!in_.is_large())
            rest();
    }
    /// Others wait for memory, and this client has had enough requests in one go: it has to become
    /// idle, so that it gives its memory back. It may always have requests in flight.
    [[nodiscard]] bool must_pause() const noexcept
    {
        return requests_in_a_row_ >= enough_in_a_row && context_.memory.others_wait();
    }
    /// `n` bytes of replies were sent since the last receive.
    void sent(std::size_t n) noexcept { poll_.sent(n); }

    /// Where the next bytes belong. The rest of a large payload goes straight to its place.
    [[nodiscard]] std::span<std::byte> space()
    {
        return payload_.empty() ? in_.space(wanted_) : payload_;
    }
    /// Bytes that the present message lacks at least.
    [[nodiscard]] std::size_t missing() const noexcept
    {
        if (!payload_.empty())
            return payload_.size();
        const auto here = in_.buffered().size();
        const auto needed = skip_ != 0 ? static_cast<std::size_t>(skip_) : wanted_;
        return needed > here ? needed - here : 1;
    }
    /// `n` bytes are in `space()`.
    void received(std::size_t n) noexcept
    {
        if (payload_.empty()) {
            in_.received(n);
        } else {
            payload_ = payload_.subspan(n);
            in_transfer_ = !payload_.empty();
        }
    }
    void lingered(bool more) noexcept { unflagged_.lingered(more); }

    /// The client has sent the beginning of a message and not its end.
    [[nodiscard]] bool mid_message() const noexcept
    {
        return !payload_.empty() || skip_ != 0 || !in_.buffered().empty();
    }
    /// A large payload is not complete.
    [[nodiscard]] bool receiving() const noexcept { return !payload_.empty(); }
    /// The inbox holds more memory than an idle client needs.
    [[nodiscard]] bool holds_much() const noexcept
    {
        return in_.is_large() && in_.buffered().empty();
    }
    void shrink() noexcept { in_.shrink(); }
    /// How many requests without payload the buffered bytes can hold.
    [[nodiscard]] std::size_t requests_buffered() const noexcept
    {
        return in_.buffered().size() / header_bytes_;
    }

    // --- requests -------------------------------------------------------------------------------

    [[nodiscard]] const observed_request<Observer>& request() const noexcept { return request_; }
    [[nodiscard]] protocol::error_value why() const noexcept { return why_; }
    [[nodiscard]] const protocol::export_terms& terms() const noexcept { return terms_; }

    [[nodiscard]] finding next() noexcept
    {
        if (receiving() || !skip())
            return finding::receive;
        // The reply to a refused WRITE waits until its payload is discarded: a client that is still
        // sending a request does not expect a reply to it.
        if (refused_) {
            refused_ = false;
            in_transfer_ = false;
            return finding::refusal;
        }
        const auto bytes = in_.buffered();
        wanted_ = header_bytes_;
        if (bytes.size() < header_bytes_)
            return finding::receive;
        const auto r = decode(bytes);
        if (!r) {
            context_.ended = errc::bad_request_magic;
            return finding::close;
        }
        request_ = *r;
        if (unflagged_.concern(request_, transmission::longest_payload(terms_))) {
            const auto kind = unflagged_.judge(request_, bytes.subspan(header_bytes_));
            if (kind == unflagged_writes::judgement::linger)
                return finding::linger;
            if (kind == unflagged_writes::judgement::receive)
                return finding::receive;
            if (kind == unflagged_writes::judgement::payload)
                request_.flags |= protocol::command_flag::payload_len;
        }
        if (request_.payload() <= buffered_payload
            && bytes.size() - header_bytes_ < request_.payload()) {
            wanted_ = header_bytes_ + static_cast<std::size_t>(request_.payload());
            return finding::receive;
        }
        return finding::complete;
    }

    /// Consumes the header of the request that was found and decides about it.
    [[nodiscard]] decision accept() noexcept
    {
        in_.consume(header_bytes_);
        wanted_ = header_bytes_;
        in_transfer_ = false;
        ++requests_in_a_row_;
        request_.note = notify::at_request(context_.observer, context_.who, request_);
        if (request_.command == protocol::command::disc)
            return decision::leave;
        if (request_.payload() > transmission::longest_payload(terms_)) {
            context_.ended = errc::payload_too_long;
            return decision::leave;
        }
        if (const auto why = admit(); why != protocol::error_value::none) {
            refuse(why);
            return decision::refused;
        }
        return decision::admitted;
    }
    /// Refuses the request that was accepted last, before its payload was taken.
    void refuse(protocol::error_value why) noexcept
    {
        why_ = why;
        skip_ = request_.payload();
        refused_ = true;
    }

    /// The payload of the accepted request, if it has at most buffered_payload bytes. Valid until
    /// the next receive, also when it is consumed.
    [[nodiscard]] std::span<const std::byte> payload() const noexcept
    {
        return in_.buffered().first(static_cast<std::size_t>(request_.payload()));
    }
    void consume_payload() noexcept { in_.consume(static_cast<std::size_t>(request_.payload())); }

    /// Receives a longer payload into `to`, which is as long. `receiving()` is true until it is
    /// there.
    void receive_into(std::span<std::byte> to) noexcept
    {
        const auto early = in_.buffered().first(std::min(in_.buffered().size(), to.size()));
        std::copy(early.begin(), early.end(), to.begin());
        in_.consume(early.size());
        payload_ = to.subspan(early.size());
    }
    /// Whether a WRITE is still valid when its payload has arrived: the export may have been
    /// removed, or made smaller.
    [[nodiscard]] protocol::error_value still_admitted(const protocol::request& r) const noexcept
    {
        if (disk_.gone())
            return protocol::error_value::eshutdown;
        return transmission::inside(r, disk_.size()) ? protocol::error_value::none
                                                     : protocol::error_value::enospc;
    }

private:
    /// Holds the largest payload that it takes, and many small requests beside it.
    static constexpr std::size_t inbox_bytes = 2 * buffered_payload;

    static constexpr unsigned enough_in_a_row = 16;

    void rest() noexcept
    {
        requests_in_a_row_ = 0;
        context_.memory.rest();
    }
    void arm_idle() noexcept
    {
        context_.deadline.arm(context_.limits.idle_timeout, errc::idle_timeout);
    }

    [[nodiscard]] std::optional<protocol::request>
    decode(std::span<const std::byte> bytes) const noexcept
    {
        if (header_bytes_ == protocol::request_bytes)
            return protocol::decode_request(bytes.template first<protocol::request_bytes>());
        return protocol::decode_extended_request(
            bytes.template first<protocol::extended_request_bytes>());
    }

    /// Refuses what the backend must not see: the export is gone, the server stops, the request is
    /// not admitted.
    [[nodiscard]] protocol::error_value admit() noexcept
    {
        using protocol::error_value;
        if (context_.over() || disk_.gone())
            return error_value::eshutdown;
        terms_.size = disk_.size();
        terms_.told = std::max(terms_.told, terms_.size);
        const bool whole = request_.has(protocol::command_flag::df);
        // The export may allow a READ that is longer than a reply can be.
        if (request_.command == protocol::command::read
            && request_.length > replies<Observer>::largest_read)
            return whole ? error_value::eoverflow : error_value::einval;
        // A longer payload is only good in a WRITE.
        if (request_.command != protocol::command::write && request_.payload() > buffered_payload)
            return error_value::einval;
        if (const auto why = transmission::admit(request_, terms_); why != error_value::none)
            return why;
        // "READ": with DF it is one chunk, or EOVERFLOW (point 59).
        return whole && request_.length > replies<Observer>::largest_chunk ? error_value::eoverflow
                                                                           : error_value::none;
    }

    /// Discards the part of a refused payload that has arrived. *Returns* true when all of it was
    /// discarded.
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
    io::busy_poll poll_;
    observed_request<Observer> request_;
    protocol::error_value why_{};
    unsigned requests_in_a_row_ = 0;  ///< since the client was idle
    bool refused_ = false;
    bool between_requests_ = false;  ///< receives the first byte of the next request
    bool in_transfer_ = false;       ///< the deadline counts the bytes of this message
    std::uint64_t skip_ = 0;         ///< bytes of a refused payload that are not discarded yet
    std::span<std::byte> payload_;   ///< where the rest of a large payload goes
};

}  // namespace nbd::session
