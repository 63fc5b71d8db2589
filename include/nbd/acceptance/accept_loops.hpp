// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/accept_loop.hpp>
#include <nbd/acceptance/addresses.hpp>
#include <nbd/acceptance/sockets.hpp>
#include <nbd/error.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <algorithm>
#include <cstddef>
#include <list>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd::acceptance {

/// The accept loops of a listener, one for each address of its transport.
template <class Listener, class Protocol, class Executor>
class accept_loops {
    using loop_type = accept_loop<Listener, Protocol, Executor>;

public:
    using listening_type = listening_at<typename Protocol::endpoint>;

    accept_loops(Listener& owner, const Executor& runs_on) : listener_{owner}, runs_on_{runs_on} {}

    /// Listens at all addresses of a transport. After an error, none is left.
    template <class Transport>
    [[nodiscard]] std::error_code listen(Transport& transport)
    {
        const auto count = count_addresses(transport);
        std::error_code failed;
        if (count == 0)
            failed = errc::no_address;
        for (std::size_t address = 0; !failed && address < count; ++address) {
            auto& loop = loops_.emplace_back(listener_, runs_on_, address);
            failed = acceptance::listen(transport, loop.acceptor(), address);
            if (!failed && !loop.acceptor().is_open())
                failed = loop.take(connected(transport, address));
        }
        if (failed) {
            close();
            transport.close();
        }
        return failed;
    }
    /// Accepts at listening sockets of the program. After an error, none is left.
    template <class Transport>
    [[nodiscard]] std::error_code listen_on(const Transport& transport,
                                            std::vector<owned_descriptor>& sockets)
    {
        std::error_code failed;
        for (auto at = sockets.begin(); !failed && at != sockets.end(); ++at) {
            listening_type here;
            failed = check_socket_of(transport, at->get(), true, here);
            if (!failed)
                failed = assign(loops_.emplace_back(listener_, runs_on_, here.address).acceptor(),
                                std::move(*at), here.endpoint.protocol());
        }
        if (failed)
            close();
        return failed;
    }
    /// Prepares for `run`. *Returns* where the loops listen.
    [[nodiscard]] std::vector<listening_type> prepare()
    {
        std::vector<listening_type> all;
        for (auto& loop : loops_) {
            if (!loop.acceptor().is_open())
                continue;
            loop.acceptor().native_non_blocking(true);
            all.push_back({loop.acceptor().local_endpoint(), loop.address()});
        }
        without_acceptor_ = all.empty() && !loops_.empty();
        return all;
    }

    /// All loops go on. Each time another one is the first, because the first may take all places
    /// where connections wait.
    void run()
    {
        if (!loops_.empty())
            loops_.splice(loops_.end(), loops_, loops_.begin());
        for (auto& loop : loops_)
            loop.run();
    }
    /// See accept_loop.
    void recover()
    {
        for (auto& loop : loops_)
            loop.recover();
    }
    void close()
    {
        for (auto& loop : loops_)
            loop.close();
        without_acceptor_ = false;
    }

    /// There are only clients that were connected before start().
    [[nodiscard]] bool without_acceptor() const noexcept { return without_acceptor_; }
    /// No further client can come.
    [[nodiscard]] bool exhausted() const noexcept
    {
        return without_acceptor_
            && std::none_of(loops_.begin(), loops_.end(),
                            [](const loop_type& loop) { return loop.is_open(); });
    }

private:
    Listener& listener_;
    Executor runs_on_;
    std::list<loop_type> loops_;
    bool without_acceptor_ = false;
};

}  // namespace nbd::acceptance
