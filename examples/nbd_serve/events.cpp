// SPDX-License-Identifier: MIT
#include "events.hpp"

#include <boost/asio/post.hpp>

#include <csignal>
#include <future>
#include <iostream>
#include <new>
#include <utility>
#include <vector>

namespace {

std::vector<int> ending_signals()
{
    std::vector<int> all{SIGINT, SIGTERM};
    struct ::sigaction hangup {};
    if (::sigaction(SIGHUP, nullptr, &hangup) != 0 || hangup.sa_handler != SIG_IGN)
        all.push_back(SIGHUP);
    return all;
}

}  // namespace

events::events(std::function<void()> reload) : reload_{std::move(reload)}
{
    for (const int number : ending_signals())
        ending_.add(number);
    reloads_.add(SIGUSR1);
}

std::string events::during(const std::function<std::string(std::stop_token)>& work)
{
    std::stop_source ended;
    ending_.async_wait([&](const boost::system::error_code& cancelled, int) {
        if (!cancelled)
            ended.request_stop();
    });
    auto result = std::async(std::launch::async, [&] {
        struct at_end {
            events* all;
            ~at_end() { all->end(); }
        } const last{this};
        return work(ended.get_token());
    });
    context_.run();
    return result.get();
}

void events::run()
{
    context_.restart();
    await_reload();
    await_end();
    context_.run();
}

void events::start(const std::string& command, const captive_command::variables& set)
{
    command_.emplace(context_);
    command_->start(command, set, [this] {
        ending_.cancel();
        reloads_.cancel();
    });
}

void events::end()
{
    boost::asio::post(context_, [this] {
        ending_.cancel();
        reloads_.cancel();
    });
}

void events::block_signals()
{
    ::sigset_t ending;
    sigemptyset(&ending);
    for (const int number : ending_signals())
        sigaddset(&ending, number);
    ::pthread_sigmask(SIG_BLOCK, &ending, nullptr);
}

void events::await_end()
{
    ending_.async_wait([this](const boost::system::error_code& cancelled, int number) {
        if (cancelled)
            return;
        if (!command_) {
            reloads_.cancel();
            return;
        }
        command_->end(number);
        await_end();
    });
}

void events::await_reload()
{
    reloads_.async_wait([this](const boost::system::error_code& cancelled, int) {
        if (cancelled)
            return;
        try {
            reload_();
        } catch (const std::bad_alloc&) {
            std::cerr << "nbd-serve: there is no memory to load the credentials again; the earlier "
                         "ones stay in use\n";
        }
        await_reload();
    });
}
