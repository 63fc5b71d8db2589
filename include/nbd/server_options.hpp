// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/export_set.hpp>
#include <nbd/settings.hpp>

#include <concepts>
#include <functional>
#include <memory>

namespace nbd {

/// *Returns* a policy for a server that was given none.
template <class ThreadingPolicy>
[[nodiscard]] ThreadingPolicy default_policy()
{
    constexpr bool fits = std::default_initializable<ThreadingPolicy>;
    static_assert(fits,
                  "nbd: this policy cannot be made without arguments: pass it to the server. "
                  "nbd::on_executor needs an executor: `server{io.get_executor(), {.path = ...}}`, "
                  "or `{.listen = ..., .policy = nbd::on_executor{io.get_executor()}}`");
    if constexpr (fits)
        return ThreadingPolicy{};
    else
        throw 0;
}
/// *Returns* an observer for a server that was given none.
template <class Observer>
[[nodiscard]] Observer default_observer()
{
    constexpr bool fits = std::default_initializable<Observer>;
    static_assert(fits,
                  "nbd: this observer cannot be made without arguments: pass it to the server, for "
                  "example `{.listen = ..., .observer = my_observer{...}}`");
    if constexpr (fits)
        return Observer{};
    else
        throw 0;
}

/// Everything that a server is made of; each member may be left out:
///
///     nbd::server<nbd::tcp_transport, my_disk, nbd::strand_pool> server{
///         {.listen = {.address = "::"},
///          .settings = {.max_connections = 500},
///          .policy = nbd::strand_pool{4}}};
template <class Transport, class Backend, class ThreadingPolicy, class Observer>
struct server_options {
    typename Transport::settings listen{};
    /// Shared with other servers; null: the server makes an empty set.
    std::shared_ptr<export_set<Backend>> exports{};
    nbd::settings settings{};
    ThreadingPolicy policy = default_policy<ThreadingPolicy>();
    Observer observer = default_observer<Observer>();
    /// Asked once for each connection, before anything else is done for it; false, or an exception,
    /// closes it. It runs on the server's own thread, or on the program's executor, and must not
    /// block.
    std::function<bool(const typename Transport::peer_type&)> admit{};
};

}  // namespace nbd
