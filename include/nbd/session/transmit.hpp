// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/responder.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>

#include <chrono>

// GCC 12 takes the frame's own operators new and delete (Asio's promise has both) for a mismatch.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

namespace nbd::session {

/// The in-order loop of the transmission phase: sends what the responder has gathered, receives when
/// nothing complete is left. Ends when the client leaves or must be let go; `c.ended` says why.
template <class Io, class Stream, class Opened, class Observer>
typename Io::template task<void> transmit(Stream& stream, Opened& disk,
                                          const handshake::agreement& agreed, context<Observer>& c)
{
    responder<Opened, Observer> responder{disk, agreed, c};
    auto& out = responder.out();
    for (;;) {
        // What follows is our own time, not the client's.
        c.deadline.disarm();
        const auto step = responder.advance();

        if (step == decltype(step)::again && out.empty())
            co_await Io::yield(stream);
        c.deadline.arm(c.limits.send_timeout, errc::send_timeout);
        while (!out.empty()) {
            const auto [error, n] = co_await Io::write_some(stream, out.pieces());
            if (error) {
                c.ended = error;
                co_return;
            }
            out.sent(n);
            c.deadline.arm(c.limits.send_timeout, errc::send_timeout);
        }

        if (step == decltype(step)::finish || c.cut.load(std::memory_order_relaxed) != errc{})
            co_return;
        if (step == decltype(step)::again)
            continue;
        if (step == decltype(step)::linger) {
            responder.lingered(
                co_await Io::readable_within(stream, std::chrono::milliseconds{200}));
            continue;
        }

        const bool mid_message = responder.mid_message();
        if (mid_message)
            c.deadline.arm(c.limits.progress_timeout, errc::progress_timeout);
        else
            c.deadline.arm(c.limits.idle_timeout, errc::idle_timeout);
        const auto space = responder.space();
        const auto [error, n] =
            co_await Io::read_some(stream, boost::asio::buffer(space.data(), space.size()));
        if (error) {
            if (error != boost::asio::error::eof)
                c.ended = error;
            else if (mid_message)
                c.ended = errc::cut_short;
            co_return;
        }
        responder.received(n);
    }
}

}  // namespace nbd::session

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
