// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/authorisation.hpp>
#include <nbd/exports/export_set.hpp>
#include <nbd/settings.hpp>

#include <concepts>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

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

/// The function of a program that is asked about each connection; see server_options::admit. Empty
/// by default: every connection is admitted.
template <class Peer>
class admission {
public:
    // noexcept: see authorisation.
    admission() noexcept = default;
    /// `f`: a function `bool(const Peer&)`. Other arguments: a compile error.
    template <class F>
        requires(!std::same_as<std::remove_cvref_t<F>, admission>)
    admission(F&& f)
    {
        using callable = std::decay_t<F>;
        constexpr bool fits = std::is_invocable_r_v<bool, callable&, const Peer&>;
        static_assert(fits,
                      "nbd: `admit` is called with the peer of the transport, such as a const "
                      "nbd::tcp_peer&, and returns bool");
        if constexpr (fits && std::copy_constructible<callable>)
            call_ = std::forward<F>(f);
        else if constexpr (fits)
            call_ = [shared = std::make_shared<callable>(std::forward<F>(f))](const Peer& p) {
                return static_cast<bool>((*shared)(p));
            };
    }

    /// *Returns* whether the connection is admitted. *Errors*: those of the function.
    [[nodiscard]] bool operator()(const Peer& peer) const { return !call_ || call_(peer); }

private:
    std::function<bool(const Peer&)> call_;
};

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
    /// closes it before a byte is sent and before it can take a place. It knows only the
    /// peer; `authorise` also knows the identity that TLS has proved, and the export. `admit` runs
    /// on the server's own thread, or on the program's executor, and must not block.
    admission<typename Transport::peer_type> admit{};
    /// Decides what a client may do with the export `client::export_name`:
    ///
    ///     .authorise = nbd::allow::user(1000) || nbd::allow::address("10.0.0.0/8")
    ///
    /// or
    ///
    ///     .authorise = [](const nbd::client& who) { return who.tls.has_value(); }
    ///
    /// It is a rule of nbd::allow, or a function of `const nbd::client&` that returns bool,
    /// nbd::permission, nbd::decision, or boost::asio::awaitable of one. It is called for each
    /// option that names an export (INFO, GO, EXPORT_NAME, LIST_META_CONTEXT, SET_META_CONTEXT),
    /// before the function of on_lookup and the backend's `open`; for each export that LIST is
    /// about to name; and for a connection that server::adopt takes after its handshake.
    /// `export_name` is the name that the client asks for, also where there is no such export; for
    /// the empty name, that of the default export.
    ///
    /// A refused export is left out of LIST, and to the client it does not exist. The observer's
    /// at_option_error gets errc::not_authorised, with the decision's reason; not for LIST. With
    /// permission::read_only, the transmission flags of this client say READ_ONLY, and its writes
    /// get EPERM; other clients of the export are not affected. What was decided at GO holds until
    /// the client has left.
    /// *Errors*: an exception refuses the client; at_option_error gets its text.
    /// *Thread safety*, *Lifetime* and *Cancellation*: as for export_set::on_lookup.
    authorisation authorise{};
};

}  // namespace nbd
