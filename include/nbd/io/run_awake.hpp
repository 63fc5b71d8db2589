// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/busy_poll.hpp>

#include <boost/asio/io_context.hpp>

#include <chrono>

namespace nbd::io {

/// As `context.run()`, by a thread that has nothing else to do: before it sleeps it looks for up to
/// `budget` whether there is something to run, as long as that pays.
inline void run_awake(boost::asio::io_context& context, std::chrono::nanoseconds budget)
{
    busy_poll poll{budget};
    if (!poll.enabled()) {
        context.run();
        return;
    }
    while (!context.stopped()) {
        const auto begun = busy_poll::clock::now();
        const auto ran = [&context] { return context.poll_one() != 0 || context.stopped(); };
        if (!poll.pays() || !poll.look(ran))
            context.run_one();
        poll.waited(busy_poll::clock::now() - begun);
    }
}

}  // namespace nbd::io
