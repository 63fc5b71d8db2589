// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace bench {

/// The address of a server, for connect().
struct server_address {
    ::sockaddr_storage bytes{};
    ::socklen_t length = 0;

    [[nodiscard]] const ::sockaddr* data() const noexcept
    {
        return reinterpret_cast<const ::sockaddr*>(&bytes);
    }
    [[nodiscard]] ::socklen_t size() const noexcept { return length; }
};

/// A path that begins with a zero byte is an abstract socket. Errors: std::invalid_argument.
[[nodiscard]] inline server_address unix_address(std::string_view path)
{
    ::sockaddr_un to{};
    to.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(to.sun_path))
        throw std::invalid_argument{"the path of a UNIX socket has 1 to "
                                    + std::to_string(sizeof(to.sun_path) - 1) + " bytes"};
    std::memcpy(to.sun_path, path.data(), path.size());
    const std::size_t ending = path.front() == '\0' ? 0 : 1;
    server_address address;
    std::memcpy(&address.bytes, &to, sizeof(to));
    address.length =
        static_cast<::socklen_t>(offsetof(::sockaddr_un, sun_path) + path.size() + ending);
    return address;
}

/// "HOST:PORT" or "[::1]:PORT"; the default port is NBD's. Errors: std::invalid_argument.
[[nodiscard]] inline server_address tcp_address(const std::string& text)
{
    const auto end_of_host = text.starts_with('[') ? text.find(']') : 0;
    const auto colon = end_of_host == text.npos ? text.npos : text.find(':', end_of_host);
    auto host = text.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']'))
        host = host.substr(1, host.size() - 2);
    const auto port = colon == text.npos ? "10809" : text.substr(colon + 1);
    if (host.empty() || port.empty())
        throw std::invalid_argument{"expected HOST:PORT, but got \"" + text + '"'};
    ::addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    ::addrinfo* found = nullptr;
    if (const int failed = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); failed != 0)
        throw std::invalid_argument{"expected the HOST:PORT of a server, but got \"" + text
                                    + "\": " + ::gai_strerror(failed)};
    const std::unique_ptr<::addrinfo, void (*)(::addrinfo*)> owner{found, ::freeaddrinfo};
    server_address address;
    std::memcpy(&address.bytes, found->ai_addr, found->ai_addrlen);
    address.length = found->ai_addrlen;
    return address;
}

[[nodiscard]] inline std::string percent_decode(std::string_view text)
{
    const auto digit = [](char c) {
        constexpr std::string_view digits = "0123456789abcdef";
        const auto at = digits.find(static_cast<char>(c | 0x20));
        return at == digits.npos ? throw std::invalid_argument{"a % in a URI has two digits"} : at;
    };
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            plain += text[i];
            continue;
        }
        if (text.size() - i < 3)
            throw std::invalid_argument{"a % in a URI has two digits"};
        plain += static_cast<char>(digit(text[i + 1]) << 4 | digit(text[i + 2]));
        i += 2;
    }
    return plain;
}

/// An export: an address and a name.
struct export_address {
    server_address server;
    std::string name;
};

/// `nbd://HOST:PORT/NAME`, `nbd+unix:///NAME?socket=PATH`. Errors: std::invalid_argument.
[[nodiscard]] inline export_address parse_uri(std::string_view uri)
{
    constexpr std::string_view tcp = "nbd://";
    constexpr std::string_view local = "nbd+unix:///";
    constexpr std::string_view socket = "?socket=";
    if (uri.starts_with(tcp) && uri.size() > tcp.size()) {
        const auto rest = uri.substr(tcp.size());
        const auto slash = std::min(rest.find('/'), rest.size());
        return {tcp_address(std::string{rest.substr(0, slash)}),
                percent_decode(rest.substr(std::min(slash + 1, rest.size())))};
    }
    const auto query = uri.find(socket);
    if (uri.starts_with(local) && query != uri.npos)
        return {unix_address(percent_decode(uri.substr(query + socket.size()))),
                percent_decode(uri.substr(local.size(), query - local.size()))};
    throw std::invalid_argument{
        "expected nbd://HOST:PORT/NAME or nbd+unix:///NAME?socket=PATH, but got \""
        + std::string{uri} + '"'};
}

}  // namespace bench
