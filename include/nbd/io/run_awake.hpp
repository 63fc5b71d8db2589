// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/busy_poll.hpp>

#include <boost/asio/io_context.hpp>

#include <chrono>
#include <thread>

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
        const auto waited = [&] { return busy_poll::clock::now() - begun; };
        bool found = false;
        if (poll.pays()) {
            while (!(found = context.poll_one() != 0) && !context.stopped()
                   && waited() < poll.budget())
                std::this_thread::yield();  // whoever is to bring something may want this processor
        }
        if (!found)
            context.run_one();
        poll.waited(waited());
    }
}

}  // namespace nbd::io
