// SPDX-License-Identifier: MIT
// What nbd-serve waits for while it serves: signals, and the end of the server.
#pragma once

#include "captive.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <functional>
#include <optional>
#include <stop_token>
#include <string>

/// SIGINT, SIGTERM and SIGHUP (unless the caller ignores it, as nohup does) end the program.
/// SIGUSR1 loads certificates and keys again.
class events {
public:
    explicit events(std::function<void()> reload);
    events(const events&) = delete;
    events& operator=(const events&) = delete;

    /// Runs the command of --run. A signal that would end the program ends the command instead, and
    /// the end of the command ends the program.
    void start(const std::string& command, const captive_command::variables& set);
    /// *Returns* the exit status of the program: that of the command, or 0.
    [[nodiscard]] int status() const noexcept { return command_ ? command_->status() : 0; }

    /// Before run(): calls `work` on another thread, which a signal that ends the program stops.
    /// *Returns* its result. *Errors*: those of `work`.
    [[nodiscard]] std::string during(const std::function<std::string(std::stop_token)>& work);
    /// Handles signals until one of them ends the program, or end() is called.
    void run();
    /// *Thread safety*: any thread.
    void end();

    /// From now on, a second signal does not kill the process while it ends. The calling thread is
    /// the only one that is left.
    static void block_signals();

private:
    void await_reload();
    void await_end();

    boost::asio::io_context context_{1};
    boost::asio::signal_set ending_{context_};
    boost::asio::signal_set reloads_{context_};
    std::function<void()> reload_;
    std::optional<captive_command> command_;
};
