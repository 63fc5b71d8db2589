// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/agreement.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/inbox.hpp>
#include <nbd/session/read_answer.hpp>
#include <nbd/session/replies.hpp>
#include <nbd/session/scratch.hpp>
#include <nbd/session/status_answer.hpp>
#include <nbd/session/unflagged_writes.hpp>
#include <nbd/transmission/admission.hpp>
#include <nbd/transmission/execution.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

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
        linger,   ///< see whether more comes within a moment, say so to `lingered`, advance again
        finish,   ///< close
    };

    responder(Opened& disk, const handshake::agreement& agreed, context<Observer>& c)
        : disk_{disk}, context_{c}, terms_{agreed.terms},
          header_bytes_{protocol::request_bytes_of(agreed.style)},
          replies_{c, agreed.style, read_answer<Opened, Observer>::outbox_bytes},
          read_{disk, replies_, scratch_}, status_{disk, agreed, replies_}
    {
    }

    [[nodiscard]] outbox& out() noexcept { return replies_.out(); }

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

    /// After step::linger: whether more came.
    void lingered(bool more) noexcept { unflagged_.lingered(more); }

    /// Answers all that is buffered. Requires that `out()` is empty.
    [[nodiscard]] step advance()
    {
        for (std::uint64_t work = 0;;) {
            if (!payload_.empty() || !skip())
                return step::receive;
            if (refused_)
                refuse();
            if (writing_)
                finish_write();
            if (zeroing_ && !zero_on())
                return step::again;
            // Whoever asks for much at once lets others have their turn in between; and who has
            // gone meanwhile is found out by sending.
            if (work > most_work)
                return step::again;
            const auto bytes = in_.buffered();
            if (bytes.size() < header_bytes_)
                return step::receive;
            auto r = decode(bytes);
            if (!r) {
                context_.ended = errc::bad_request_magic;
                return step::finish;
            }
            if (unflagged_.concern(*r, transmission::longest_payload(terms_))) {
                const auto kind = unflagged_.judge(*r, bytes.subspan(header_bytes_));
                if (kind == unflagged_writes::verdict::linger)
                    return step::linger;
                if (kind == unflagged_writes::verdict::receive)
                    return step::receive;
                if (kind == unflagged_writes::verdict::payload)
                    r->flags |= protocol::command_flag::payload_len;
            }
            if (r->payload() <= buffered_payload && bytes.size() - header_bytes_ < r->payload())
                return step::receive;
            const bool reads = r->command == protocol::command::read;
            if (!out().fits(replies_.most_header + (reads ? read_.room(*r) : 0), 1)
                || (reads && !out().empty() && read_.wants_empty_outbox(*r)))
                return step::again;
            in_.consume(header_bytes_);
            work += least_work + (r->command == protocol::command::disc ? 0 : r->length);
            notify::at_request(context_.observer, context_.who, *r);
            if (r->command == protocol::command::disc)
                return step::finish;
            if (r->payload() > transmission::longest_payload(terms_)) {
                context_.ended = errc::payload_too_long;
                return step::finish;
            }
            if (const auto refused = admit(*r); refused != protocol::error_value::none) {
                skip_ = r->payload();
                refused_ = refusal{*r, refused};
            } else if (!answer(*r)) {
                return step::again;
            }
        }
    }

private:
    using backend_type = typename Opened::backend_type;

    /// A payload up to this is taken from the inbox, whole; a longer one is received in place.
    static constexpr std::size_t buffered_payload = std::size_t{64} << 10;
    /// Holds the largest such WRITE and many small requests beside it.
    static constexpr std::size_t inbox_bytes = 2 * buffered_payload;

    /// Bytes that are worked on at one go, where each request counts for some by itself.
    static constexpr std::uint64_t most_work = std::uint64_t{32} << 20;
    static constexpr std::uint64_t least_work = std::uint64_t{4} << 10;
    /// A WRITE_ZEROES that has to write is done in pieces of this.
    static constexpr std::uint64_t zeroing_piece = std::uint64_t{8} << 20;

    /// More than any client could ask for before there were extended headers is refused where it has to
    /// be written ("Size constraints": a server MAY, point 79).
    static constexpr std::uint64_t most_zeroed = std::uint64_t{1} << 50;

    [[nodiscard]] std::optional<protocol::request>
    decode(std::span<const std::byte> bytes) const noexcept
    {
        if (header_bytes_ == protocol::request_bytes)
            return protocol::decode_request(bytes.template first<protocol::request_bytes>());
        return protocol::decode_extended_request(
            bytes.template first<protocol::extended_request_bytes>());
    }

    /// Refuses without the backend: the export is gone, the server stops, the request is not good.
    [[nodiscard]] protocol::error_value admit(const protocol::request& r) noexcept
    {
        if (context_.over() || disk_.gone())
            return protocol::error_value::eshutdown;
        terms_.size = disk_.size();
        terms_.told = std::max(terms_.told, terms_.size);
        // No good payload but a WRITE's is that long.
        if (r.command != protocol::command::write && r.payload() > buffered_payload)
            return protocol::error_value::einval;
        return transmission::admit(r, terms_);
    }

    /// False where the reply must be sent before another is made.
    [[nodiscard]] bool answer(const protocol::request& r)
    {
        using protocol::command;
        switch (r.command) {
        case command::read:
            return read_.answer(r);
        case command::write:
            answer_write(r);
            return true;
        case command::block_status: {
            const auto payload = in_.buffered().first(static_cast<std::size_t>(r.payload()));
            status_.answer(r, terms_, payload, context_.limits.extents_per_reply);
            in_.consume(payload.size());
            return false;
        }
        case command::resize:
            replies_.answer(r, disk_.resize(r.offset));
            return true;
        case command::write_zeroes:
            if (!zeroes_cheaply(r) && r.length > most_zeroed) {
                replies_.error(r, protocol::error_value::eoverflow,
                               "zeroes that have to be written are written up to 1 PiB at a time");
                return true;
            }
            zeroing_ = r;
            zeroing_at_ = r.offset;
            return true;
        default:
            replies_.answer(r, perform(r, {}));
            return true;
        }
    }

    /// The backend zeroes a range without writing all of it.
    [[nodiscard]] static bool zeroes_cheaply(const protocol::request& r) noexcept
    {
        return has_handle<backend_type>
            || (has_write_zeroes<backend_type> && !r.has(protocol::command_flag::no_hole));
    }

    /// A piece of a WRITE_ZEROES. It is the whole where the backend can do it without writing; else
    /// it is short enough for others not to notice. True when there is nothing left of it.
    [[nodiscard]] bool zero_on()
    {
        auto& r = *zeroing_;
        auto piece = r;
        if (!zeroes_cheaply(r) && r.length > zeroing_piece) {
            piece.length = zeroing_piece;
            if (!has_fua_write<backend_type>)  // the flush after the last covers them all
                piece.flags &= static_cast<std::uint16_t>(~protocol::command_flag::fua);
        }
        failure failed;
        if (context_.over() || disk_.gone())
            failed = std::error_code{ESHUTDOWN, std::generic_category()};
        else
            failed = perform(piece, {});
        r.offset += piece.length;
        r.length -= piece.length;
        if (!failed && r.length != 0)
            return false;
        r.offset = zeroing_at_;
        replies_.answer(r, failed);
        zeroing_.reset();
        return true;
    }

    /// A request of no length has nothing to do, and succeeds without the backend (point 68).
    [[nodiscard]] failure perform(const protocol::request& r,
                                  std::span<const std::byte> payload) noexcept
    {
        if (r.length == 0 && r.command != protocol::command::flush)
            return {};
        return transmission::perform(disk_.backend(), r, payload, guard());
    }

    /// How the backend is called: under its lock, and within the export's block sizes.
    [[nodiscard]] auto guard() noexcept
    {
        struct {
            Opened& disk;
            const protocol::block_sizes& blocks;
            [[nodiscard]] auto lock() const { return disk.lock(); }
            [[nodiscard]] std::size_t largest_write() const noexcept
            {
                return blocks.maximum - blocks.maximum % blocks.minimum;
            }
        } g{disk_, terms_.blocks};
        return g;
    }

    void answer_write(const protocol::request& r)
    {
        const auto length = static_cast<std::size_t>(r.length);
        if (length <= buffered_payload) {
            replies_.answer(r, perform(r, in_.buffered().first(length)));
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
            payload_ = writing_->collected = scratch_.bytes(length);
        const auto early = in_.buffered().first(std::min(in_.buffered().size(), length));
        std::copy(early.begin(), early.end(), payload_.begin());
        payload_ = payload_.subspan(early.size());
        in_.consume(early.size());
    }

    /// The payload of a large WRITE has arrived.
    void finish_write()
    {
        const auto r = writing_->request;
        failure failed;
        if constexpr (has_lent_written<backend_type>) {
            if (writing_->collected.empty())
                disk_.backend().lent_written(r.offset, static_cast<std::size_t>(r.length));
        }
        if (!writing_->collected.empty()) {
            failed = perform(r, writing_->collected);
        } else if constexpr (has_flush<backend_type>) {
            if (r.has(protocol::command_flag::fua))
                failed = transmission::call(guard(), [&] { return disk_.backend().flush(); });
        }
        replies_.answer(r, failed);
        writing_.reset();
        scratch_.give_back();
    }

    /// The payload of a refused request is gone. Not earlier: a client that still sends a request
    /// does not know yet that there could be a reply to it.
    void refuse() noexcept
    {
        replies_.error(refused_->request, refused_->why, transmission::explain(refused_->why));
        refused_.reset();
    }

    /// Consumes what is left of a refused payload. True when none is.
    [[nodiscard]] bool skip() noexcept
    {
        const auto n = std::min<std::uint64_t>(skip_, in_.buffered().size());
        in_.consume(static_cast<std::size_t>(n));
        skip_ -= n;
        return skip_ == 0;
    }

    struct refusal {
        protocol::request request;
        protocol::error_value why;
    };
    struct large_write {
        protocol::request request;
        std::span<std::byte> collected;  ///< scratch that holds the payload; empty: in its place
    };

    Opened& disk_;
    context<Observer>& context_;
    protocol::export_terms terms_;
    const std::size_t header_bytes_;
    inbox in_{inbox_bytes};
    scratch scratch_;
    replies<Observer> replies_;
    read_answer<Opened, Observer> read_;
    status_answer<Opened, Observer> status_;
    unflagged_writes unflagged_;
    std::uint64_t skip_ = 0;  ///< bytes of a refused payload that are still to come
    std::optional<refusal> refused_;
    std::optional<protocol::request> zeroing_;  ///< what is left of a WRITE_ZEROES
    std::uint64_t zeroing_at_ = 0;              ///< where it began
    std::span<std::byte> payload_;              ///< where the rest of a large payload goes
    std::optional<large_write> writing_;
};

}  // namespace nbd::session
