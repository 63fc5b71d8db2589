// SPDX-License-Identifier: MIT
#pragma once

#include "grid/client.hpp"
#include <nbd/protocol/chunk.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <ostream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace grid {

/// A received chunk. A simple reply is a chunk without payload, with a type of its own.
struct received_chunk {
    static constexpr auto simple = static_cast<proto::chunk>(0x7fff);

    std::uint16_t flags = 0;
    proto::chunk type{};
    std::uint64_t offset = 0;  ///< of the header; only with extended headers
    bytes payload;
    proto::error_value simple_error{};

    [[nodiscard]] bool done() const { return (flags & proto::reply_flag::done) != 0; }
    [[nodiscard]] bool content() const
    {
        return type == proto::chunk::offset_data || type == proto::chunk::offset_hole;
    }
};

/// All chunks of one reply, and their meaning.
struct whole_reply {
    std::vector<received_chunk> chunks;

    [[nodiscard]] std::size_t count(proto::chunk type) const
    {
        return static_cast<std::size_t>(std::count_if(
            chunks.begin(), chunks.end(), [&](const auto& c) { return c.type == type; }));
    }
    [[nodiscard]] const received_chunk& last() const { return chunks.back(); }
    [[nodiscard]] proto::error_value error() const
    {
        if (last().type == received_chunk::simple)
            return last().simple_error;
        if ((static_cast<std::uint16_t>(last().type) & 0x8000U) == 0)
            return proto::error_value::none;
        return static_cast<proto::error_value>(proto::load<std::uint32_t>(last().payload));
    }
    /// The text of its error.
    [[nodiscard]] std::string text() const
    {
        proto::reader in{last().payload};
        std::ignore = in.take<std::uint32_t>();
        return std::string{in.take_string(in.take<std::uint16_t>())};
    }
    /// The offset of an ERROR_OFFSET; checks that lengths add up.
    [[nodiscard]] std::optional<std::uint64_t> error_offset() const
    {
        if (last().type != proto::chunk::error_offset)
            return std::nullopt;
        proto::reader in{last().payload};
        std::ignore = in.take<std::uint32_t>();
        std::ignore = in.take_string(in.take<std::uint16_t>());
        const auto at = in.take<std::uint64_t>();
        if (!in.ok() || in.left() != 0)
            throw std::runtime_error{"an ERROR_OFFSET whose lengths do not add up"};
        return at;
    }
    /// The data of a READ from all chunks. Throws if they leave a gap, overlap or exceed the range.
    [[nodiscard]] bytes data(std::uint64_t offset, std::size_t length) const
    {
        bytes all(length, std::byte{0xcc});
        std::vector<std::pair<std::uint64_t, std::uint64_t>> told;
        for (const auto& c : chunks) {
            if (!c.content())
                continue;
            proto::reader in{c.payload};
            const auto at = in.take<std::uint64_t>();
            const bool hole = c.type == proto::chunk::offset_hole;
            const std::uint64_t n = hole ? in.take<std::uint32_t>() : in.left();
            if (n == 0 || at < offset || n > length || at - offset > length - n)
                throw std::runtime_error{"a content chunk outside of its request"};
            if (hole && (!in.ok() || in.left() != 0))
                throw std::runtime_error{"an OFFSET_HOLE that is too long or too short"};
            told.emplace_back(at - offset, n);
            const auto to = std::span{all}.subspan(static_cast<std::size_t>(at - offset),
                                                   static_cast<std::size_t>(n));
            if (hole)
                std::fill(to.begin(), to.end(), std::byte{0});
            else
                std::copy_n(c.payload.begin() + 8, n, to.begin());
        }
        std::sort(told.begin(), told.end());
        std::uint64_t covered = 0;
        for (const auto& [at, n] : told) {
            if (at != covered)
                throw std::runtime_error{"content chunks that overlap or leave a gap"};
            covered += n;
        }
        if (covered != length)
            throw std::runtime_error{"content chunks that do not cover their request"};
        return all;
    }
};

/// One context's descriptors.
struct context_status {
    struct descriptor {
        std::uint64_t length = 0;
        std::uint64_t flags = 0;
        friend bool operator==(const descriptor&, const descriptor&) = default;
        friend std::ostream& operator<<(std::ostream& to, const descriptor& d)
        {
            return to << d.length << '/' << d.flags;
        }
    };
    std::uint32_t id = 0;
    std::vector<descriptor> extents;
};

/// A client with structured replies or extended headers, over a raw socket.
class chunk_client {
public:
    using style_type = proto::reply_style;

    /// Negotiates the style; then call `select` and `go`.
    template <class Endpoint>
    chunk_client(const Endpoint& to, style_type style) : raw{to}, style_{style}
    {
        raw.greet();
        if (style != style_type::simple)
            acknowledged(raw.ask(style == style_type::extended ? proto::option::extended_headers
                                                               : proto::option::structured_reply));
    }

    /// A connection whose handshake is over.
    chunk_client(raw_client connected, style_type style) : raw{std::move(connected)}, style_{style}
    {
    }

    [[nodiscard]] static bytes meta_data(std::string_view name,
                                         const std::vector<std::string>& queries)
    {
        std::size_t n = 8 + name.size();
        for (const auto& q : queries)
            n += 4 + q.size();
        bytes data(n);
        proto::writer to{data};
        to.put(static_cast<std::uint32_t>(name.size()))
            .put_text(name)
            .put(static_cast<std::uint32_t>(queries.size()));
        for (const auto& q : queries)
            to.put(static_cast<std::uint32_t>(q.size())).put_text(q);
        return data;
    }
    /// SET_META_CONTEXT; returns the selected ids and names.
    std::vector<std::pair<std::uint32_t, std::string>>
    select(std::string_view name, const std::vector<std::string>& queries)
    {
        const auto answers = raw.ask(proto::option::set_meta_context, meta_data(name, queries));
        std::vector<std::pair<std::uint32_t, std::string>> all;
        for (const auto& a : answers) {
            if (a.type != proto::option_reply::meta_context)
                continue;
            proto::reader in{a.data};
            const auto id = in.take<std::uint32_t>();
            all.emplace_back(id, in.take_string(in.left()));
        }
        return all;
    }
    /// GO; returns the size and flags of INFO_EXPORT.
    proto::export_terms go(std::string_view name)
    {
        const auto answers = raw.ask(proto::option::go, raw_client::info_data(name, {3}));
        acknowledged(answers);
        return terms_of(answers);
    }
    /// INFO; negotiation continues.
    proto::export_terms info(std::string_view name)
    {
        return terms_of(raw.ask(proto::option::info, raw_client::info_data(name)));
    }
    [[nodiscard]] static proto::export_terms terms_of(const std::vector<option_answer>& answers)
    {
        for (const auto& a : answers) {
            proto::reader in{a.data};
            if (a.type == proto::option_reply::info && in.take<std::uint16_t>() == 0) {
                const auto size = in.take<std::uint64_t>();
                return {.size = size, .flags = in.take<std::uint16_t>(), .blocks = {}};
            }
        }
        throw std::runtime_error{"no INFO_EXPORT"};
    }

    // --- transmission ---------------------------------------------------------------------------

    void send_request(proto::command c, std::uint64_t offset, std::uint64_t length,
                      std::uint16_t flags = 0, std::span<const std::byte> payload = {})
    {
        bytes message(proto::request_bytes_of(style_));
        proto::writer to{message};
        sent_offset_ = offset;
        to.put(style_ == style_type::extended ? proto::extended_request_magic
                                              : proto::request_magic)
            .put(flags)
            .put(c)
            .put(++cookie_)
            .put(offset);
        if (style_ == style_type::extended)
            to.put(length);
        else
            to.put(static_cast<std::uint32_t>(length));
        message.insert(message.end(), payload.begin(), payload.end());
        raw.send(message);
    }
    /// One chunk of the reply to the last request. Checks the rules for every chunk.
    [[nodiscard]] received_chunk receive_chunk()
    {
        received_chunk c;
        const auto magic = proto::load<std::uint32_t>(raw.receive(4));
        if (magic == proto::simple_reply_magic && style_ == style_type::structured) {
            const auto rest = raw.receive(12);
            proto::reader in{rest};
            c.simple_error = static_cast<proto::error_value>(in.take<std::uint32_t>());
            check(in.take<std::uint64_t>() == cookie_, "another cookie");
            c.type = received_chunk::simple;
            c.flags = proto::reply_flag::done;
            return c;
        }
        const bool wide = style_ == style_type::extended;
        check(magic == (wide ? proto::extended_reply_magic : proto::structured_reply_magic),
              "another magic");
        const auto rest = raw.receive(proto::chunk_bytes(style_) - 4);
        proto::reader in{rest};
        c.flags = in.take<std::uint16_t>();
        c.type = static_cast<proto::chunk>(in.take<std::uint16_t>());
        check(in.take<std::uint64_t>() == cookie_, "another cookie");
        if (wide) {
            c.offset = in.take<std::uint64_t>();
            check(c.offset == sent_offset_, "another offset than the request's");
        }
        const auto length = wide ? in.take<std::uint64_t>() : in.take<std::uint32_t>();
        check((c.flags & ~unsigned{proto::reply_flag::done}) == 0, "unknown chunk flags");
        check(length <= (std::uint64_t{64} << 20), "a chunk that is too long");
        check(c.type != proto::chunk::none || (length == 0 && c.done()), "a NONE that is not one");
        c.payload = raw.receive(static_cast<std::size_t>(length));
        return c;
    }
    [[nodiscard]] whole_reply receive_whole()
    {
        whole_reply r;
        do
            r.chunks.push_back(receive_chunk());
        while (!r.last().done());
        return r;
    }
    [[nodiscard]] whole_reply request(proto::command c, std::uint64_t offset, std::uint64_t length,
                                      std::uint16_t flags = 0,
                                      std::span<const std::byte> payload = {})
    {
        send_request(c, offset, length, flags, payload);
        return receive_whole();
    }
    [[nodiscard]] whole_reply read(std::uint64_t offset, std::uint64_t length,
                                   std::uint16_t flags = 0)
    {
        return request(proto::command::read, offset, length, flags);
    }
    [[nodiscard]] proto::error_value write(std::uint64_t offset, std::span<const std::byte> data,
                                           std::uint16_t flags = 0)
    {
        if (style_ == style_type::extended)
            flags |= proto::command_flag::payload_len;
        return request(proto::command::write, offset, data.size(), flags, data).error();
    }
    [[nodiscard]] std::vector<context_status> status(const whole_reply& r) const
    {
        const bool wide = style_ == style_type::extended;
        std::vector<context_status> all;
        for (const auto& c : r.chunks) {
            check(c.type == (wide ? proto::chunk::block_status_ext : proto::chunk::block_status),
                  "a chunk that is no block status of this style");
            proto::reader in{c.payload};
            context_status s{.id = in.take<std::uint32_t>(), .extents = {}};
            const auto told = wide ? in.take<std::uint32_t>() : 0U;
            while (in.left() != 0) {
                const auto length = wide ? in.take<std::uint64_t>() : in.take<std::uint32_t>();
                const auto flags = wide ? in.take<std::uint64_t>() : in.take<std::uint32_t>();
                check(in.ok() && length != 0, "a descriptor of no length, or half a one");
                s.extents.push_back({length, flags});
            }
            check(!s.extents.empty() && (!wide || told == s.extents.size()),
                  "another number of descriptors");
            all.push_back(std::move(s));
        }
        return all;
    }
    /// BLOCK_STATUS, one entry for each context; throws if the reply is an error.
    [[nodiscard]] std::vector<context_status> status(std::uint64_t offset, std::uint64_t length,
                                                     std::uint16_t flags = 0)
    {
        return status(request(proto::command::block_status, offset, length, flags));
    }
    [[nodiscard]] std::uint64_t cookie() const noexcept { return cookie_; }

    raw_client raw;

private:
    static void check(bool holds, const char* what)
    {
        if (!holds)
            throw std::runtime_error{what};
    }
    static void acknowledged(const std::vector<option_answer>& answers)
    {
        check(answers.back().type == proto::option_reply::ack, "an option was refused");
    }

    style_type style_;
    std::uint64_t cookie_ = 0;
    std::uint64_t sent_offset_ = 0;
};

}  // namespace grid
