// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/observer.hpp>
#include <nbd/protocol/chunk.hpp>
#include <nbd/protocol/error_value.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/session/buffers/outbox.hpp>
#include <nbd/session/context.hpp>
#include <nbd/vocabulary/extent_list.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace nbd::session {

/// Writes replies into an outbox, in the style that was negotiated.
template <class Observer>
class replies {
    using reply_style = protocol::reply_style;
    using request = protocol::request;

public:
    /// An error's text goes out up to this (point 22 allows 4096).
    static constexpr std::size_t longest_text = 256;
    /// Room that any reply takes in the outbox, its data aside.
    static constexpr std::size_t most_header =
        protocol::extended_chunk_bytes + 4 + 2 + longest_text + 8;
    /// No chunk holds more data than this.
    static constexpr std::size_t largest_chunk = std::size_t{32} << 20;

    replies(context<Observer>& c, reply_style style, std::size_t outbox_bytes)
        : context_{c}, style_{style}, out_{outbox_bytes}
    {
    }

    [[nodiscard]] outbox& out() noexcept { return out_; }
    [[nodiscard]] bool chunked() const noexcept { return style_ != reply_style::simple; }
    [[nodiscard]] reply_style style() const noexcept { return style_; }

    /// Whether any reply still fits whose READ, if it is one, has `length` bytes of data, of which
    /// `copied` go into the outbox.
    [[nodiscard]] bool fits(std::uint64_t length, std::size_t copied) const noexcept
    {
        const auto chunks = static_cast<std::size_t>(length / largest_chunk) + 1;
        return out_.fits(most_header * chunks + copied, 2 * chunks - 1);
    }
    /// The longest READ whose chunks an empty outbox holds.
    static constexpr std::uint64_t largest_read =
        (outbox::max_pieces / 2 - 2) * std::uint64_t{largest_chunk};

    /// Bytes in front of the data of a READ.
    [[nodiscard]] std::size_t data_header_bytes() const noexcept
    {
        return chunked() ? protocol::chunk_bytes(style_) + 8 : protocol::simple_reply_bytes;
    }
    /// Encodes them into the first of `to`, for `length` bytes of data from `offset` on.
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

    /// Data of a READ, split where a chunk would be too long.
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

    /// Data of a READ: short ones are cheaper copied behind their header than gathered as a piece of
    /// their own.
    void data(const request& r, std::span<const std::byte> data)
    {
        if (data.size() > copied_data) {
            lend_data(r, r.offset, data);
            return;
        }
        const auto header = data_header_bytes();
        const auto room = out_.append(header + data.size());
        data_header(room, r, r.offset, data.size());
        std::copy(data.begin(), data.end(), room.subspan(header).begin());
    }
    static constexpr std::size_t copied_data = std::size_t{8} << 10;

    /// A READ without its holes: `data_at(offset, length)` gives the lent data of what is none. Wants
    /// the outbox for itself.
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

    /// A part of a READ that is zero, in place of its data (point 57).
    void hole(const request& r, std::uint64_t offset, std::uint32_t length, bool done)
    {
        const auto payload = append_chunk(r, protocol::chunk::offset_hole, 12, done);
        protocol::writer{payload}.put(offset).put(length);
    }

    /// Success, without data.
    void done(const request& r)
    {
        // "Structured replies": a READ is always answered in chunks, what has no payload may be
        // simple; with extended headers nothing may (point 53).
        if (style_ == reply_style::extended || (chunked() && r.command == protocol::command::read))
            std::ignore = append_chunk(r, protocol::chunk::none, 0, true);
        else
            simple(out_.append(protocol::simple_reply_bytes), r, protocol::error_value::none);
    }

    /// An error; clients with chunks get its text, and the offset where it is known.
    void error(const request& r, protocol::error_value value, std::string_view text,
               std::optional<std::uint64_t> offset = std::nullopt)
    {
        if (!chunked()) {
            simple(out_.append(protocol::simple_reply_bytes), r, value);
            return;
        }
        text = text.substr(0, longest_text);
        while (!protocol::valid_string(text))
            text.remove_suffix(1);  // not in the middle of a character, and nothing that is none
        const auto type = offset ? protocol::chunk::error_offset : protocol::chunk::error;
        const auto payload = append_chunk(r, type, 6 + text.size() + (offset ? 8 : 0), true);
        protocol::writer to{payload};
        to.put(value).put(static_cast<std::uint16_t>(text.size())).put_text(text);
        if (offset)
            to.put(*offset);
        notify::at_reply(context_.observer, context_.who, r, value);
    }

    /// The backend's failure: its cause goes to the observer, for the wire is poorer.
    void fail(const request& r, const failure& why)
    {
        const auto text = why.text.empty() ? why.code.message() : why.text;
        notify::at_error(context_.observer, context_.who, why.code, text);
        const bool told =
            why.offset && *why.offset >= r.offset && *why.offset - r.offset < r.length;
        error(r, protocol::to_error_value(why.code, r.flags), text,
              told ? why.offset : std::nullopt);
    }
    /// The reply to a BLOCK_STATUS, encoded already, or the failure; it is lent.
    void status(const request& r, const failure& why, std::span<const std::byte> reply)
    {
        if (why) {
            fail(r, why);
            return;
        }
        out_.lend(reply);
        notify::at_reply(context_.observer, context_.who, r, protocol::error_value::none);
    }
    /// Success, or the failure.
    void answer(const request& r, const failure& why)
    {
        if (why)
            fail(r, why);
        else
            done(r);
    }

    /// A chunk's header into the first of `to`; the last one ends the reply.
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
            notify::at_reply(context_.observer, context_.who, r, protocol::error_value::none);
    }

private:
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
        notify::at_reply(context_.observer, context_.who, r, error);
    }

    context<Observer>& context_;
    const reply_style style_;
    outbox out_;
};

}  // namespace nbd::session
