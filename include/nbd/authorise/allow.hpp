// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/authorise/access_rule.hpp>
#include <nbd/authorise/address_prefix.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/permission.hpp>
#include <nbd/vocabulary/printable.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/types.h>

/// Rules for server_options::authorise. All but `tls` and `read_only` take values, or containers of
/// values. A rule lets in a client that matches one of them:
///
///     .authorise = nbd::allow::address("10.0.0.0/8", "::1") && !nbd::allow::address(banned)
///
/// A rule refuses a client of which the fact is not known: `address` refuses the clients of a UNIX
/// socket, and `user` those of TCP. So `!address(...)` lets in all clients of UNIX sockets, and
/// `!psk_identity(...)` all that use no key. Texts are compared byte by byte, but
/// fingerprints without regard to colons and case.
/// *Errors*: std::invalid_argument for a value that the rule cannot parse, and for an empty text,
/// except in `export_name`.
namespace nbd::allow {

namespace lists {

/// *Returns* the values and the elements of the lists in one list.
template <class T, class... Entries>
[[nodiscard]] std::vector<T> joined(const Entries&... entries)
{
    static_assert(!std::integral<T> || (!std::convertible_to<Entries, std::string_view> && ...),
                  "nbd: the ids of users and groups are numbers");
    std::vector<T> all;
    const auto add = [&all](const auto& entry) {
        if constexpr (std::convertible_to<decltype(entry), T>)
            all.push_back(static_cast<T>(entry));
        else
            for (const auto& element : entry)
                all.push_back(static_cast<T>(element));
    };
    (add(entries), ...);
    return all;
}

[[nodiscard]] inline std::string text_of(const std::string& entry)
{
    return printable(entry);
}
[[nodiscard]] inline std::string text_of(const address_prefix& entry)
{
    return entry.text();
}
[[nodiscard]] inline std::string text_of(std::integral auto entry)
{
    return std::to_string(entry);
}

/// *Returns* "not KIND A, B, C and 7 more".
template <class T>
[[nodiscard]] std::string none_of(const char* kind, const std::vector<T>& entries)
{
    constexpr std::size_t shown = 5;
    auto text = std::string{"not "} + kind;
    for (std::size_t i = 0; i < std::min(shown, entries.size()); ++i)
        text += (i == 0 ? " " : ", ") + text_of(entries[i]);
    if (entries.size() > shown)
        text += " and " + std::to_string(entries.size() - shown) + " more";
    return text;
}

/// A rule that lets in a client for one of the entries: `matches(who, entry)`.
template <class T, class Matches>
[[nodiscard]] access_rule any_of(const char* kind, std::vector<T> entries, Matches matches)
{
    return [kind, entries = std::move(entries), matches](const client& who) {
        const auto at = std::find_if(entries.begin(), entries.end(),
                                     [&](const T& entry) { return matches(who, entry); });
        return at == entries.end()
            ? decision{permission::refused, none_of(kind, entries)}
            : decision{permission::full, std::string{kind} + ' ' + text_of(*at)};
    };
}
/// The same for texts, none of which may be empty: an absent fact is an empty text.
template <class Matches>
[[nodiscard]] access_rule any_text_of(const char* kind, std::vector<std::string> entries,
                                      Matches matches)
{
    for (const auto& entry : entries)
        if (entry.empty())
            throw std::invalid_argument{std::string{"nbd: expected a "} + kind
                                        + ", but got an empty text"};
    return lists::any_of(kind, std::move(entries), matches);
}
/// *Returns* a fingerprint as tls_info has it.
[[nodiscard]] inline std::string fingerprint(const std::string& text)
{
    std::string digits;
    for (const char c : text)
        if (c != ':')
            digits += c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
    if (digits.size() != 64 || digits.find_first_not_of("0123456789abcdef") != digits.npos)
        throw std::invalid_argument{"nbd: expected a SHA-256 fingerprint of 64 hexadecimal digits, "
                                    "but got \""
                                    + printable(text) + '"'};
    return digits;
}

}  // namespace lists

/// Addresses and prefixes; see nbd::address_prefix.
template <class... Entries>
[[nodiscard]] access_rule address(const Entries&... entries)
{
    std::vector<address_prefix> parsed;
    for (const auto& text : lists::joined<std::string>(entries...))
        parsed.emplace_back(text);
    return lists::any_of("address", std::move(parsed),
                         [](const client& who, const address_prefix& prefix) {
                             return who.address && prefix.contains(*who.address);
                         });
}

/// User ids of the clients' processes, which are on this machine and use a UNIX socket.
template <class... Entries>
[[nodiscard]] access_rule user(const Entries&... entries)
{
    return lists::any_of(
        "user", lists::joined<::uid_t>(entries...),
        [](const client& who, ::uid_t uid) { return who.process && who.process->user == uid; });
}

/// Group ids of these processes: only the effective group, no supplementary ones.
template <class... Entries>
[[nodiscard]] access_rule group(const Entries&... entries)
{
    return lists::any_of(
        "group", lists::joined<::gid_t>(entries...),
        [](const client& who, ::gid_t gid) { return who.process && who.process->group == gid; });
}

/// Clients that have started TLS.
[[nodiscard]] inline access_rule tls()
{
    return [](const client& who) {
        return who.tls ? decision{permission::full, "TLS"}
                       : decision{permission::refused, "no TLS"};
    };
}

/// Identities of pre-shared keys, which the client has proved to know.
template <class... Entries>
[[nodiscard]] access_rule psk_identity(const Entries&... entries)
{
    return lists::any_text_of("PSK identity", lists::joined<std::string>(entries...),
                              [](const client& who, const std::string& identity) {
                                  return who.tls && who.tls->psk_identity == identity;
                              });
}

/// Subjects of the clients' certificates, in full, as RFC 2253 writes them: "CN=backup,O=Example".
template <class... Entries>
[[nodiscard]] access_rule subject(const Entries&... entries)
{
    return lists::any_text_of("subject", lists::joined<std::string>(entries...),
                              [](const client& who, const std::string& subject) {
                                  return who.tls && who.tls->subject == subject;
                              });
}

/// Alternative names of these certificates, as tls_info::names has them: "DNS:a.example",
/// "email:a@example.org".
template <class... Entries>
[[nodiscard]] access_rule alternative_name(const Entries&... entries)
{
    return lists::any_text_of(
        "alternative name", lists::joined<std::string>(entries...),
        [](const client& who, const std::string& name) {
            return who.tls && std::count(who.tls->names.begin(), who.tls->names.end(), name) != 0;
        });
}

/// SHA-256 fingerprints of these certificates, in hexadecimal digits; colons are ignored.
template <class... Entries>
[[nodiscard]] access_rule fingerprint(const Entries&... entries)
{
    auto all = lists::joined<std::string>(entries...);
    std::transform(all.begin(), all.end(), all.begin(), lists::fingerprint);
    return lists::any_of("fingerprint", std::move(all),
                         [](const client& who, const std::string& fingerprint) {
                             return who.tls && who.tls->fingerprint == fingerprint;
                         });
}

/// Names of exports; "" is only an export whose own name is empty.
template <class... Entries>
[[nodiscard]] access_rule export_name(const Entries&... entries)
{
    return lists::any_of(
        "export", lists::joined<std::string>(entries...),
        [](const client& who, const std::string& name) { return who.export_name == name; });
}

/// Names of transports, as nbd::client::transport: "tcp", "unix", "vsock", "fd". A socket that
/// fd_transport takes over is "fd", also if it is one of TCP.
template <class... Entries>
[[nodiscard]] access_rule transport(const Entries&... entries)
{
    return lists::any_text_of(
        "transport", lists::joined<std::string>(entries...),
        [](const client& who, const std::string& name) { return who.transport == name; });
}

/// Lets in every client, to read only: `subject("CN=auditor") && read_only()`.
[[nodiscard]] inline access_rule read_only()
{
    return [](const client&) { return decision{permission::read_only, "read-only"}; };
}

}  // namespace nbd::allow
