// SPDX-License-Identifier: MIT
// The log of nbd-serve --verbose: an observer that writes to stderr.
#pragma once

#include "nbd_serve_output.hpp"
#include <nbd/server.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
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
                "option " + named(static_cast<std::uint32_t>(o.option), name_of(o.option))
                    + " with " + std::to_string(o.length) + " bytes");
    }
    void at_export_opened(const nbd::client& c, std::string_view name,
                          const nbd::protocol::export_terms& t)
    {
        if (to != nullptr)
            say(c,
                "export \"" + nbd::printable(name) + "\" of " + std::to_string(t.size)
                    + " bytes, transmission flags " + std::to_string(t.flags)
                    + names_of(t.flags,
                               {"HAS_FLAGS", "READ_ONLY", "SEND_FLUSH", "SEND_FUA", "ROTATIONAL",
                                "SEND_TRIM", "SEND_WRITE_ZEROES", "SEND_DF", "CAN_MULTI_CONN",
                                "SEND_RESIZE", "SEND_CACHE", "SEND_FAST_ZERO",
                                "BLOCK_STATUS_PAYLOAD"}));
    }
    void at_request(const nbd::client& c, const nbd::protocol::request& r)
    {
        if (to != nullptr)
            say(c,
                "request " + std::string{name_of(r.command)} + " cookie " + std::to_string(r.cookie)
                    + " flags " + std::to_string(r.flags)
                    + names_of(r.flags,
                               {"FUA", "NO_HOLE", "DF", "REQ_ONE", "FAST_ZERO", "PAYLOAD_LEN"})
                    + " offset " + std::to_string(r.offset) + " length "
                    + std::to_string(r.length));
    }
    void at_reply(const nbd::client& c, const nbd::protocol::request& r,
                  nbd::protocol::error_value error)
    {
        if (to != nullptr)
            say(c,
                "reply to cookie " + std::to_string(r.cookie) + ": error value "
                    + named(static_cast<std::uint32_t>(error), name_of(error)));
    }
    void at_error(const nbd::client& c, std::error_code cause, std::string_view what)
    {
        say(c, std::string{what} + ": " + cause.message());
    }
    void at_disconnect(const nbd::client& c, std::error_code why)
    {
        say(c, why ? "disconnected: " + why.message() : "disconnected");
    }
    void at_accept_error(std::error_code why)
    {
        if (to != nullptr)
            to->line("nbd-serve: accept: " + why.message());
    }

private:
    using names = std::initializer_list<std::string_view>;

    void say(const nbd::client& c, const std::string& what) const
    {
        if (to != nullptr)
            to->line("client " + std::to_string(c.id) + " (" + c.peer + "): " + what);
    }
    static std::string named(std::uint32_t number, std::string_view name)
    {
        auto text = std::to_string(number);
        if (!name.empty())
            text.append(" (").append(name).append(")");
        return text;
    }
    static std::string_view at(std::uint32_t number, names all)
    {
        return number < all.size() ? all.begin()[number] : std::string_view{};
    }
    /// For example " (FUA DF)". A bit without a name appears in the number alone.
    static std::string names_of(std::uint16_t bits, names all)
    {
        std::string text;
        for (std::size_t bit = 0; bit < all.size(); ++bit)
            if ((bits >> bit & 1) != 0)
                text.append(text.empty() ? " (" : " ").append(all.begin()[bit]);
        return text.empty() ? text : text + ')';
    }
    static std::string_view name_of(nbd::protocol::option o)
    {
        return at(static_cast<std::uint32_t>(o),
                  {"", "EXPORT_NAME", "ABORT", "LIST", "PEEK_EXPORT", "STARTTLS", "INFO", "GO",
                   "STRUCTURED_REPLY", "LIST_META_CONTEXT", "SET_META_CONTEXT",
                   "EXTENDED_HEADERS"});
    }
    static std::string_view name_of(nbd::protocol::command c)
    {
        const auto name = at(static_cast<std::uint32_t>(c),
                             {"READ", "WRITE", "DISC", "FLUSH", "TRIM", "CACHE", "WRITE_ZEROES",
                              "BLOCK_STATUS", "RESIZE"});
        return name.empty() ? "unknown" : name;
    }
    static std::string_view name_of(nbd::protocol::error_value e)
    {
        using nbd::protocol::error_value;
        switch (e) {
        case error_value::none:
            return "success";
        case error_value::eperm:
            return "EPERM";
        case error_value::eio:
            return "EIO";
        case error_value::enomem:
            return "ENOMEM";
        case error_value::einval:
            return "EINVAL";
        case error_value::enospc:
            return "ENOSPC";
        case error_value::eoverflow:
            return "EOVERFLOW";
        case error_value::enotsup:
            return "ENOTSUP";
        case error_value::eshutdown:
            return "ESHUTDOWN";
        }
        return {};
    }
};
