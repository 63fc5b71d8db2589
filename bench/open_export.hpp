// SPDX-License-Identifier: MIT
#pragma once

#include "raw_socket.hpp"
#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/constants.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

/// The properties of an export that a load needs.
struct opened_export {
    std::uint64_t size = 0;   ///< bytes
    std::uint16_t flags = 0;  ///< protocol::transmission_flag
    std::uint32_t minimum_block = nbd::protocol::default_minimum_block;
    std::uint32_t maximum_payload = nbd::protocol::default_maximum_payload;
    bool structured = false;  ///< READs are answered in chunks
};

/// One option of the handshake and its replies.
class option_talk {
public:
    option_talk(raw_socket& socket, nbd::protocol::option o, std::span<const std::byte> data)
        : socket_{socket}
    {
        namespace wire = nbd::protocol;
        std::vector<std::byte> message(wire::option_header_bytes);
        wire::writer{message}
            .put(wire::option_magic)
            .put(o)
            .put(static_cast<std::uint32_t>(data.size()));
        message.insert(message.end(), data.begin(), data.end());
        socket.send(message);
    }

    /// The next reply; its data are in `data()`.
    [[nodiscard]] nbd::protocol::option_reply next()
    {
        namespace wire = nbd::protocol;
        std::byte header[wire::option_reply_header_bytes];
        socket_.receive(header);
        wire::reader in{header};
        const auto magic = in.take<std::uint64_t>();
        static_cast<void>(in.take<std::uint32_t>());
        const auto type = in.take<std::uint32_t>();
        const auto length = in.take<std::uint32_t>();
        constexpr std::uint32_t longest = 1 << 20;
        if (magic != wire::option_reply_magic || length > longest)
            throw std::runtime_error{"the server sent an invalid reply to an option"};
        data_.resize(length);
        socket_.receive(data_);
        return static_cast<wire::option_reply>(type);
    }
    [[nodiscard]] std::span<const std::byte> data() const noexcept { return data_; }

private:
    raw_socket& socket_;
    std::vector<std::byte> data_;
};

/// Receives and answers the greeting. Errors: those of the socket; std::runtime_error if the server
/// has no fixed newstyle handshake.
inline void greet(raw_socket& socket)
{
    namespace wire = nbd::protocol;
    std::byte greeting[wire::greeting_bytes];
    socket.receive(greeting);
    wire::reader hello{greeting};
    if (hello.take<std::uint64_t>() != wire::init_magic
        || hello.take<std::uint64_t>() != wire::option_magic)
        throw std::runtime_error{"the peer is not a newstyle NBD server"};
    const auto offered = hello.take<std::uint16_t>();
    if ((offered & wire::handshake_flag::fixed_newstyle) == 0)
        throw std::runtime_error{"the server does not support fixed newstyle"};
    const bool no_zeroes = (offered & wire::handshake_flag::no_zeroes) != 0;
    std::byte flags[wire::client_flags_bytes];
    wire::writer{flags}.put(wire::client_flag::fixed_newstyle
                            | (no_zeroes ? wire::client_flag::no_zeroes : 0));
    socket.send(flags);
}

/// *Returns* the data of INFO and GO: the export's name, and a request for its block sizes.
[[nodiscard]] inline std::vector<std::byte> info_request(std::string_view name)
{
    namespace wire = nbd::protocol;
    std::vector<std::byte> wanted(4 + name.size() + 4);
    wire::writer{wanted}
        .put(static_cast<std::uint32_t>(name.size()))
        .put_text(name)
        .put(std::uint16_t{1})
        .put(wire::info::block_size);
    return wanted;
}

/// GO for this export. Errors: those of the socket; std::runtime_error if the server refuses.
[[nodiscard]] inline opened_export go(raw_socket& socket, std::string_view name)
{
    namespace wire = nbd::protocol;
    using wire::option_reply;
    opened_export opened;
    option_talk talk{socket, wire::option::go, info_request(name)};
    for (;;) {
        const auto type = talk.next();
        if (type == option_reply::ack)
            return opened;
        if (type != option_reply::info) {
            const std::string text{reinterpret_cast<const char*>(talk.data().data()),
                                   talk.data().size()};
            throw std::runtime_error{"the server refuses to open the export \"" + std::string{name}
                                     + '"' + (text.empty() ? "" : ": " + text)};
        }
        wire::reader info{talk.data()};
        const auto kind = static_cast<wire::info>(info.take<std::uint16_t>());
        if (kind == wire::info::export_) {
            opened.size = info.take<std::uint64_t>();
            opened.flags = info.take<std::uint16_t>();
        } else if (kind == wire::info::block_size) {
            opened.minimum_block = info.take<std::uint32_t>();
            static_cast<void>(info.take<std::uint32_t>());
            opened.maximum_payload = info.take<std::uint32_t>();
        }
    }
}

/// The fixed newstyle handshake: STRUCTURED_REPLY if `structured`, then GO for this export.
/// Errors: those of the socket; std::runtime_error if the server refuses.
[[nodiscard]] inline opened_export open_export(raw_socket& socket, std::string_view name,
                                               bool structured = false)
{
    namespace wire = nbd::protocol;
    greet(socket);
    if (structured
        && option_talk{socket, wire::option::structured_reply, {}}.next()
            != wire::option_reply::ack)
        throw std::runtime_error{"the server does not support structured replies"};
    auto opened = go(socket, name);
    opened.structured = structured;
    return opened;
}

}  // namespace bench
