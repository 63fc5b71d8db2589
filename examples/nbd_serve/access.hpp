// SPDX-License-Identifier: MIT
// Who may use the export of nbd-serve: --allow and --deny.
#pragma once

#include "arguments.hpp"
#include <nbd/authorise/allow.hpp>
#include <nbd/exports/authorisation.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <pwd.h>
#include <sys/types.h>

/// Adds the options to those of the program.
template <class App>
void add_access_options(App& app, access_arguments& a)
{
    app.add_option(
           "--allow", a.allow,
           "serve only the clients of this list, with commas between its entries: an address, or a "
           "prefix such as 10.0.0.0/8, for --tcp; uid:N, gid:N or user:NAME for --unix; "
           "psk:IDENTITY for --tls; fingerprint:SHA256 or subject:TEXT for --tls-verify-peer. An "
           "entry of psk: or subject: is the last of its list, because it can contain commas. "
           "Other "
           "clients are told that there is no export, and --verbose says why. The option can be "
           "repeated. Default: all clients")
        ->allow_extra_args(false)
        ->type_name("LIST");
    app.add_option(
           "--deny", a.deny,
           "do not serve these clients, even if --allow lists them. An entry of one transport "
           "denies no client of another")
        ->allow_extra_args(false)
        ->type_name("LIST");
}

/// An entry that begins with a word. The others are addresses.
struct access_entry {
    std::string_view word;
    nbd::access_rule (*parse)(const std::string& value);
    bool is_last = false;  ///< of its list: the value may contain commas
    bool of_tls = false;
    bool of_certificate = false;
};

/// Parses the N of "uid:N" and "gid:N".
inline ::uid_t parse_id(const std::string& digits)
{
    ::uid_t id = 0;
    const auto* const last = digits.data() + digits.size();
    const auto [end, error] = std::from_chars(digits.data(), last, id);
    if (error != std::errc{} || end != last || id == static_cast<::uid_t>(-1))
        throw std::invalid_argument{"expected a number below 4294967295, but got \""
                                    + nbd::printable(digits) + '"'};
    return id;
}
inline ::uid_t parse_user(const std::string& name)
{
    const auto* const found = ::getpwnam(name.c_str());
    if (found == nullptr)
        throw std::invalid_argument{"expected a user of this system, but got \""
                                    + nbd::printable(name) + '"'};
    return found->pw_uid;
}
inline const std::array access_entries{
    access_entry{.word = "uid:",
                 .parse = [](const std::string& v) { return nbd::allow::user(parse_id(v)); }},
    access_entry{.word = "gid:",
                 .parse = [](const std::string& v) { return nbd::allow::group(parse_id(v)); }},
    access_entry{.word = "user:",
                 .parse = [](const std::string& v) { return nbd::allow::user(parse_user(v)); }},
    access_entry{.word = "psk:",
                 .parse = [](const std::string& v) { return nbd::allow::psk_identity(v); },
                 .is_last = true,
                 .of_tls = true},
    access_entry{.word = "subject:",
                 .parse = [](const std::string& v) { return nbd::allow::subject(v); },
                 .is_last = true,
                 .of_tls = true,
                 .of_certificate = true},
    access_entry{.word = "fingerprint:",
                 .parse = [](const std::string& v) { return nbd::allow::fingerprint(v); },
                 .of_tls = true,
                 .of_certificate = true}};

/// Checks that the server knows of each client what the entry is about. A client that can do
/// without TLS, or that has a pre-shared key in place of a certificate, is not denied by it.
inline void check_access_entry(const access_entry& entry, const std::string& option,
                               const tls_arguments& tls)
{
    const auto argument = option + ' ' + std::string{entry.word};
    const bool denies = option == "--deny";
    if (entry.of_tls && (denies ? tls.mode != "require" : tls.mode == "off"))
        throw usage_error{argument + " expected together with --tls "
                          + (denies ? "require" : "on or require") + ", but got --tls " + tls.mode};
    if (entry.of_certificate && !tls.verify_peer)
        throw usage_error{argument + " expected together with --tls-verify-peer"};
    if (entry.of_tls && !entry.of_certificate && denies && !tls.certificates.empty()
        && !tls.verify_peer)
        throw usage_error{
            argument
            + " expected together with --tls-verify-peer, because clients need no key "
              "otherwise"};
    if (entry.of_certificate && denies && !tls.psk.empty())
        throw usage_error{
            argument
            + " expected without --tls-psk, because clients with a pre-shared key have "
              "no certificate"};
}

inline std::vector<nbd::access_rule> parse_access(const std::string& option,
                                                  const std::vector<std::string>& lists,
                                                  const tls_arguments& tls)
{
    std::vector<nbd::access_rule> rules;
    for (const auto& list : lists) {
        std::size_t end = 0;
        for (std::size_t begin = 0; end != list.npos; begin = end + 1) {
            const auto rest = std::string_view{list}.substr(begin);
            const auto* const known =
                std::find_if(access_entries.begin(), access_entries.end(),
                             [&](const auto& e) { return rest.starts_with(e.word); });
            const bool is_address = known == access_entries.end();
            end = !is_address && known->is_last ? list.npos : list.find(',', begin);
            const std::string text{rest.substr(0, end == list.npos ? end : end - begin)};
            if (!is_address)
                check_access_entry(*known, option, tls);
            try {
                rules.push_back(is_address ? nbd::allow::address(text)
                                           : known->parse(text.substr(known->word.size())));
            } catch (const std::invalid_argument& e) {
                std::string_view why = e.what();
                if (why.starts_with("nbd: "))
                    why.remove_prefix(5);
                throw usage_error{option
                                  + (is_address ? ": " : ' ' + std::string{known->word} + ' ')
                                  + std::string{why}};
            }
        }
    }
    return rules;
}

/// *Returns* the function for nbd::server_options; an empty one if there are no lists.
inline nbd::authorisation authorise_by(const access_arguments& a, const tls_arguments& tls)
{
    if (a.allow.empty() && a.deny.empty())
        return {};
    return [allow = parse_access("--allow", a.allow, tls),
            deny = parse_access("--deny", a.deny, tls)](const nbd::client& who) -> nbd::decision {
        for (const auto& rule : deny)
            if (const auto made = rule(who); made.allowed != nbd::permission::refused)
                return {nbd::permission::refused, "in --deny: " + made.reason};
        for (const auto& rule : allow)
            if (auto made = rule(who); made.allowed != nbd::permission::refused)
                return made;
        return {allow.empty() ? nbd::permission::full : nbd::permission::refused, "not in --allow"};
    };
}
