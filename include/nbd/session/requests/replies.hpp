// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/observer.hpp>
#include <nbd/protocol/chunk.hpp>
#include <nbd/protocol/error_value.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/session/buffers/outbox.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/requests/observed_request.hpp>
#include <nbd/vocabulary/extent_list.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace nbd::session {

/// Encodes replies into an outbox, in the style that was negotiated. After `reserve`, what `fits`
/// is added without an exception.
template <class Observer>
class replies {
    using reply_style = protocol::reply_style;
    using request = observed_request<Observer>;

public:
    /// Bytes of the longest error text that is sent (point 22 allows 4096).
    static constexpr std::size_t longest_text = 256;
    /// Bytes of the outbox that a reply takes at most, less its data.
    static constexpr std::size_t most_header =
        protocol::extended_chunk_bytes + 4 + 2 + longest_text + 8;
    /// Bytes of data in one chunk, at most.
    static constexpr std::size_t largest_chunk = std::size_t{32} << 20;

    replies(context<Observer>& c, reply_style style, std::size_t outbox_bytes)
        : context_{c}, style_{style}, out_{outbox_bytes}
    {
    }

    [[nodiscard]] outbox& out() noexcept { return out_; }
    [[nodiscard]] const outbox& out() const noexcept { return out_; }
    [[nodiscard]] bool chunked() const noexcept { return style_ != reply_style::simple; }
    [[nodiscard]] reply_style style() const noexcept { return style_; }

    /// Whether any reply still fits. `length`: bytes of data, if it is to a READ; `copied` of them
    /// are copied into the outbox.
    [[nodiscard]] bool fits(std::uint64_t length, std::size_t copied) const noexcept
    {
        const auto chunks = chunks_of(length);
        return out_.fits(most_header * chunks + copied, 2 * chunks - 1);
    }
    /// Takes the memory for such a reply. Requires that it fits. Errors: std::bad_alloc.
    void reserve(std::uint64_t length = 0, std::size_t copied = 0)
    {
        const auto chunks = chunks_of(length);
        out_.reserve(most_header * chunks + copied, chunks);
    }
    /// The same for a READ that holes divide into `n` pieces. Errors: std::bad_alloc.
    void reserve_pieces(std::uint64_t length, std::size_t n)
    {
        const auto chunks = n + chunks_of(length);
        out_.reserve(most_header + chunks * (protocol::extended_chunk_bytes + 12), chunks);
    }
    /// Bytes of the longest READ that is answered. Its chunks fit into an empty outbox.
    static constexpr std::uint64_t largest_read = 30 * std::uint64_t{largest_chunk};

    /// Bytes in front of the data of a READ.
    [[nodiscard]] std::size_t data_header_bytes() const noexcept
    {
        return chunked() ? protocol::chunk_bytes(style_) + 8 : protocol::simple_reply_bytes;
    }
    /// Encodes them into the first bytes of `to`. `length` bytes of data from `offset` on follow.
    void data_header(std::span<std::byte> to, const request& r, std::uint64_t offset,
                     std::size_t length, bool done = true) noexcept
    {
        if (!chunked()) {
            simple(to, r, protocol::error_value::none);
            return;
        }
        chunk(to, r, protocol::chunk::offset_data, 8 + length, done);
        protocol::store(to.subspan(protocol::chunk_bytes(style_)), offset);
    }

    /// Data of a READ, by reference, split into chunks that are not too long.
    void lend_data(const request& r, std::uint64_t offset, const lent_data& data, bool done = true)
    {
        std::size_t at = 0;
        for (; chunked() && data.length - at > largest_chunk; at += largest_chunk) {
            data_header(out_.append(data_header_bytes()), r, offset + at, largest_chunk, false);
            out_.lend(data.part(at, largest_chunk));
        }
        data_header(out_.append(data_header_bytes()), r, offset + at, data.length - at, done);
        out_.lend(data.part(at, data.length - at));
    }

    /// All data of a READ. Short data are copied behind their header, which costs less than a piece
    /// of their own.
    void data(const request& r, const lent_data& data)
    {
        if (data.in_file() || data.length > copied_data) {
            lend_data(r, r.offset, data);
            return;
        }
        const auto header = data_header_bytes();
        const auto room = out_.append(header + data.length);
        data_header(room, r, r.offset, data.length);
        std::copy(data.memory.begin(), data.memory.end(), room.subspan(header).begin());
    }
    static constexpr std::size_t copied_data = std::size_t{2} << 10;

    /// A READ without its holes. `data_at(offset, length)` returns the data of each piece that is
    /// no hole, in order. Requires an empty outbox.
    template <class DataAt>
    void pieces(const request& r, std::span<const extent> found, DataAt data_at)
    {
        std::uint64_t at = r.offset;
        const auto end = r.offset + r.length;
        for (const auto& e : found) {
            const bool last = at + e.length == end;
            if ((e.flags & protocol::state_flag::zero) != 0)
                hole(r, at, static_cast<std::uint32_t>(e.length), last);
            else
                lend_data(r, at, data_at(at, static_cast<std::size_t>(e.length)), last);
            at += e.length;
        }
        if (at != end)
            lend_data(r, at, data_at(at, static_cast<std::size_t>(end - at)), true);
    }

    /// A hole in place of the data of a part of a READ (point 57).
    void hole(const request& r, std::uint64_t offset, std::uint32_t length, bool done)
    {
        const auto payload = append_chunk(r, protocol::chunk::offset_hole, 12, done);
        protocol::writer{payload}.put(offset).put(length);
    }

    /// Success, without data.
    void done(const request& r)
    {
        // "Structured replies": the reply to a READ is always chunks. Another reply without payload
        // may be simple, but not with extended headers (point 53).
        if (style_ == reply_style::extended || (chunked() && r.command == protocol::command::read))
            std::ignore = append_chunk(r, protocol::chunk::none, 0, true);
        else
            simple(out_.append(protocol::simple_reply_bytes), r, protocol::error_value::none);
    }

    /// An error. A client that takes chunks gets the text, and the offset if it is known.
    void error(const request& r, protocol::error_value value, std::string_view text,
               std::optional<std::uint64_t> offset = std::nullopt)
    {
        if (!chunked()) {
            simple(out_.append(protocol::simple_reply_bytes), r, value);
            return;
        }
        text = text.substr(0, longest_text);
        while (!protocol::valid_string(text))
            text.remove_suffix(1);  // whole characters, valid UTF-8
        const auto type = offset ? protocol::chunk::error_offset : protocol::chunk::error;
        const auto payload = append_chunk(r, type, 6 + text.size() + (offset ? 8 : 0), true);
        protocol::writer to{payload};
        to.put(value).put(static_cast<std::uint16_t>(text.size())).put_text(text);
        if (offset)
            to.put(*offset);
        notify::at_reply(context_.observer, context_.who, r, value, r.note);
    }

    /// A failure of the backend. The observer gets all of it, clients what
    /// settings.send_error_details allows.
    void fail(const request& r, const failure& why)
    {
        notify::at_error(context_.observer, context_.who, r, why);
        // The text of an exception may be confidential, and clients need not be authenticated.
        const bool for_clients =
            context_.limits.send_error_details || (!why.text.empty() && !why.thrown);
        std::string details;
        try {
            if (for_clients && chunked())
                details = why.message();
        } catch (...) {  // out of memory: there is no text
        }
        const auto value = protocol::to_error_value(why.code, r.flags);
        const bool inside =
            why.offset && *why.offset >= r.offset && *why.offset - r.offset < r.length;
        error(r, value, details.empty() ? protocol::message_of(value) : details,
              inside ? why.offset : std::nullopt);
    }
    /// The encoded reply to a BLOCK_STATUS, by reference; or the failure.
    void status(const request& r, const failure& why, std::span<const std::byte> reply)
    {
        if (why) {
            fail(r, why);
            return;
        }
        out_.lend(reply);
        notify::at_reply(context_.observer, context_.who, r, protocol::error_value::none, r.note);
    }
    /// Success, or the failure.
    void answer(const request& r, const failure& why)
    {
        if (why)
            fail(r, why);
        else
            done(r);
    }

    /// Encodes the header of a chunk into the first bytes of `to`. `done` marks the last chunk.
    void chunk(std::span<std::byte> to, const request& r, protocol::chunk type,
               std::uint64_t length, bool done) noexcept
    {
        protocol::encode_chunk(to, style_,
                               {.flags = done ? protocol::reply_flag::done : std::uint16_t{0},
                                .type = type,
                                .cookie = r.cookie,
                                .offset = r.offset,
                                .length = length});
        if (done && (static_cast<std::uint16_t>(type) & 0x8000U) == 0)
            notify::at_reply(context_.observer, context_.who, r, protocol::error_value::none,
                             r.note);
    }

private:
    [[nodiscard]] static constexpr std::size_t chunks_of(std::uint64_t length) noexcept
    {
        return static_cast<std::size_t>(length / largest_chunk) + 1;
    }
    [[nodiscard]] std::span<std::byte> append_chunk(const request& r, protocol::chunk type,
                                                    std::size_t length, bool done)
    {
        const auto room = out_.append(protocol::chunk_bytes(style_) + length);
        chunk(room, r, type, length, done);
        return room.subspan(protocol::chunk_bytes(style_));
    }

    void simple(std::span<std::byte> to, const request& r, protocol::error_value error) noexcept
    {
        protocol::encode_reply(to.template first<protocol::simple_reply_bytes>(),
                               {.error = error, .cookie = r.cookie});
        notify::at_reply(context_.observer, context_.who, r, error, r.note);
    }

    context<Observer>& context_;
    const reply_style style_;
    outbox out_;
};

}  // namespace nbd::session
