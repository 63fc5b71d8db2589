// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/busy_poll.hpp>
#include <nbd/io/send_file.hpp>
#include <nbd/session/in_order/responder.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>

#include <chrono>
#include <cstddef>

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
    responder<Opened, Observer> responder{disk, agreed, c, io::socket<Stream>};
    auto& out = responder.out();
    auto& in = responder.in();
    io::busy_poll poll{c.limits.busy_poll};
    for (;;) {
        // What follows is our own time, not the client's.
        c.deadline.disarm();
        const auto step = responder.advance();

        // Until there is something to send or to wait for, nobody looks at the client.
        const bool works_on = step == decltype(step)::again && out.empty();
        c.working.store(works_on, std::memory_order_relaxed);
        if (works_on)
            co_await Io::yield(stream);
        c.deadline.arm(c.limits.send_timeout, errc::send_timeout);
        std::size_t sent = 0;
        while (!out.empty()) {
            const auto [error, n] = co_await Io::send_some(stream, out);
            if (error) {
                c.ended = error;
                co_return;
            }
            out.sent(n);
            sent += n;
            c.deadline.arm(c.limits.send_timeout, errc::send_timeout);
        }

        poll.sent(sent);
        if (step == decltype(step)::finish || c.cut.load(std::memory_order_relaxed) != errc{})
            co_return;
        if (step == decltype(step)::again)
            continue;
        if (step == decltype(step)::linger) {
            in.lingered(co_await Io::readable_within(stream, std::chrono::milliseconds{200}));
            continue;
        }

        const bool mid_message = in.mid_message();
        if (mid_message)
            c.deadline.arm(c.limits.progress_timeout, errc::progress_timeout);
        else
            c.deadline.arm(c.limits.idle_timeout, errc::idle_timeout);
        if constexpr (io::socket<Stream>) {
            if (in.holds_much() && Io::must_wait(stream))
                in.shrink();
        }
        const auto space = in.space();
        const auto [error, n] =
            co_await Io::read_some(stream, boost::asio::buffer(space.data(), space.size()), poll);
        if (error) {
            if (error != boost::asio::error::eof)
                c.ended = error;
            else if (mid_message)
                c.ended = errc::cut_short;
            co_return;
        }
        in.received(n);
    }
}

}  // namespace nbd::session

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
