// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/negotiator.hpp>
#include <nbd/session/context.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>

#include <cstddef>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd::session {

/// The handshake loop: receives exactly what the negotiator wants, carries out its actions and sends
/// its replies. Gives the export that the client chose, and what was `agreed` on; or nothing, and then
/// `c.ended` says why.
///
/// Not one byte is received beyond what an option needs, so nothing can lie buffered when the
/// meaning of the stream changes. An export is opened when a client asks for it and not earlier.
template <class Io, class Stream, class Exports, class Observer>
typename Io::template task<std::optional<typename Exports::opened>>
negotiate(Stream& stream, Exports& exports, handshake::agreement& agreed, context<Observer>& c)
{
    using handshake::action;
    handshake::negotiator negotiator{c.limits};
    std::vector<std::byte> data;
    std::optional<typename Exports::opened> chosen;
    auto v = action::more;
    c.deadline.arm(c.limits.handshake_deadline, errc::handshake_timeout);
    for (;;) {
        if (v == action::list) {
            exports.visit(
                c.limits.exports_listed,
                [&](std::string_view name, std::string_view text) { negotiator.list(name, text); });
            v = negotiator.listed();
        } else if (v == action::open) {
            std::error_code why;
            chosen.reset();
            if (auto opened = exports.open(negotiator.asked_name(), c.who, why))
                chosen.emplace(std::move(*opened));
            if (!chosen)
                notify::at_error(c.observer, c.who, why, "the export does not open");
            v = chosen ? negotiator.opened(chosen->info()) : negotiator.refused(why);
            if (v != action::transmit)
                chosen.reset();  // INFO opens as GO does, and closes again (point 99)
        }

        if (v == action::transmit)
            c.admitted.store(true, std::memory_order_relaxed);
        auto& reply = negotiator.reply();
        c.waiting.store(true, std::memory_order_relaxed);
        for (std::size_t sent = 0; sent < reply.size();) {
            const auto [error, n] = co_await Io::write_some(
                stream, boost::asio::buffer(reply.data() + sent, reply.size() - sent));
            if (error) {
                // Who aborts need not wait for the answer (point 29), and who only looks whether
                // somebody is there says nothing at all.
                const bool clean = v == action::close || negotiator.nothing_taken();
                c.ended = clean ? negotiator.ended() : std::error_code{error};
                co_return std::nullopt;
            }
            sent += n;
        }
        reply.clear();

        if (v == action::close) {
            c.ended = negotiator.ended();
            co_return std::nullopt;
        }
        if (v == action::transmit) {
            c.deadline.disarm();
            agreed = negotiator.agreed();
            notify::at_export_opened(c.observer, c.who, chosen->info().name, agreed.terms);
            co_return chosen;
        }

        data.resize(negotiator.wants());
        for (std::size_t got = 0; got < data.size();) {
            const auto [error, n] = co_await Io::read_some(
                stream, boost::asio::buffer(data.data() + got, data.size() - got));
            if (error) {
                if (got == 0 && negotiator.nothing_taken())
                    c.ended = {};
                else if (error != boost::asio::error::eof)
                    c.ended = error;
                else if (got != 0 || !negotiator.between_options())
                    c.ended = errc::cut_short;
                co_return std::nullopt;
            }
            got += n;
        }
        if (c.stopping.load(std::memory_order_relaxed))
            negotiator.shut_down();
        c.waiting.store(false, std::memory_order_relaxed);
        const bool header = negotiator.between_options();
        v = negotiator.take(data);
        if (header && negotiator.ended() != errc::bad_option_magic)
            notify::at_option(c.observer, c.who, negotiator.option());
    }
}

}  // namespace nbd::session
