// SPDX-License-Identifier: MIT
// The log of nbd-serve --verbose: an observer that writes to stderr.
#pragma once

#include "output.hpp"
#include <nbd/protocol/error_value.hpp>
#include <nbd/protocol/names.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/printable.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>

/// Writes one line for each event of a client. Numbers of the protocol are followed by the
/// specification's names.
struct client_log {
    log_output* to = nullptr;  ///< null: no log

    void at_connect(const nbd::client& c) { say(c, "connected"); }
    void at_option(const nbd::client& c, const nbd::protocol::option_header& o)
    {
        if (to != nullptr)
            say(c,
                "option "
                    + named(static_cast<std::uint32_t>(o.option), nbd::protocol::name_of(o.option))
                    + " with " + std::to_string(o.length) + " bytes");
    }
    void at_export_opened(const nbd::client& c, std::string_view name,
                          const nbd::protocol::export_terms& t)
    {
        if (to != nullptr && c.tls)
            say(c, describe(*c.tls));
        if (to != nullptr)
            say(c,
                "export \"" + nbd::printable(name) + "\" of " + std::to_string(t.size)
                    + " bytes, transmission flags " + std::to_string(t.flags)
                    + in_brackets(nbd::protocol::names_of_transmission_flags(t.flags)));
    }
    void at_request(const nbd::client& c, const nbd::protocol::request& r)
    {
        if (to == nullptr)
            return;
        const auto name = nbd::protocol::name_of(r.command);
        say(c,
            "request " + std::string{name.empty() ? "unknown" : name} + " cookie "
                + std::to_string(r.cookie) + " flags " + std::to_string(r.flags)
                + in_brackets(nbd::protocol::names_of_command_flags(r.flags)) + " offset "
                + std::to_string(r.offset) + " length " + std::to_string(r.length));
    }
    void at_reply(const nbd::client& c, const nbd::protocol::request& r,
                  nbd::protocol::error_value error)
    {
        if (to != nullptr)
            say(c,
                "reply to cookie " + std::to_string(r.cookie) + ": error value "
                    + named(static_cast<std::uint32_t>(error), nbd::protocol::name_of(error)));
    }
    void at_option_error(const nbd::client& c, const nbd::protocol::option_header& o,
                         const nbd::failure& why)
    {
        const auto name = nbd::protocol::name_of(o.option);
        failed(c, "option " + std::string{name.empty() ? "unknown" : name}, why);
    }
    void at_error(const nbd::client& c, const nbd::protocol::request& r, const nbd::failure& why)
    {
        failed(c, "cookie " + std::to_string(r.cookie) + " failed", why);
    }
    void at_disconnect(const nbd::client& c, std::error_code why)
    {
        say(c, why ? "disconnected: " + why.message() : "disconnected");
    }
    void at_accept_error(std::error_code why, std::string_view peer)
    {
        if (to != nullptr)
            to->line("nbd-serve: accept" + in_brackets(std::string{peer}) + ": " + why.message());
    }

private:
    void say(const nbd::client& c, const std::string& what) const
    {
        if (to != nullptr)
            to->line("client " + std::to_string(c.id) + " (" + c.peer + "): " + what);
    }
    void failed(const nbd::client& c, const std::string& what, const nbd::failure& why) const
    {
        if (to != nullptr)
            say(c,
                what + ": " + why.message()
                    + (why.text.empty() ? "" : " (" + why.code.message() + ")"));
    }
    static std::string describe(const nbd::tls_info& tls)
    {
        auto text = tls.version + " with " + tls.cipher;
        if (!tls.psk_identity.empty())
            text += ", identity \"" + nbd::printable(tls.psk_identity) + '"';
        if (!tls.subject.empty())
            text += ", certificate of \"" + nbd::printable(tls.subject) + '"';
        return text;
    }
    static std::string named(std::uint32_t number, std::string_view name)
    {
        auto text = std::to_string(number);
        if (!name.empty())
            text.append(" (").append(name).append(")");
        return text;
    }
    /// For example " (FUA DF)". A bit without a name appears in the number alone.
    static std::string in_brackets(const std::string& names)
    {
        return names.empty() ? names : " (" + names + ")";
    }
};
