// SPDX-License-Identifier: MIT
#pragma once

// clang-format off
#include <nbd/requirements.hpp>  // first
// clang-format on
#include <nbd/basic_server.hpp>
#include <nbd/error.hpp>
#include <nbd/kernel/attached.hpp>
#include <nbd/kernel/device.hpp>
#include <nbd/kernel/error.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/threading/per_client_threads.hpp>
#include <nbd/transport/unix_transport.hpp>
#include <nbd/vocabulary/established.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>

namespace nbd {

/// How an export becomes a block device of the kernel.
struct attach_options {
    /// "/dev/nbdN"; empty: any free device.
    std::string device{};
    /// Of a server: the export's name. The empty name is the default export.
    std::string export_name{};
    /// The number of connections, and of the device's queues. More than one needs an export that
    /// promises `multi_conn`.
    std::size_t connections = 1;
    /// How long the kernel waits for a reply before it closes the connection; 0: as long as it
    /// takes. In whole seconds, rounded up. Requests whose connection has died are sent again after
    /// this time, or after 30 seconds if it is 0.
    std::chrono::milliseconds timeout{0};
    /// How long requests wait for another server when all connections are dead; 0: they fail at
    /// once. In whole seconds, rounded up.
    std::chrono::milliseconds dead_connection_timeout{0};
    /// The device's logical block size in bytes, a power of two from 512 to the page size; 0: the
    /// export's minimum block size, at least 512.
    std::uint32_t block_size = 0;
    /// A name for the data, such as the path of the image. A server with the same identifier can
    /// take `device` over after this one has died (Linux 5.14). Empty: none can.
    std::string identifier{};
    /// How long to wait for a device that is in use.
    std::chrono::milliseconds wait_for_device{0};
    /// How long to wait until the device is ready and, at the end, until no process has it open.
    std::chrono::milliseconds ready_timeout{10'000};
    /// A request to stop ends the waits for the device, with std::errc::operation_canceled.
    std::stop_token stop{};
};

namespace kernel {

/// The device's connections to a server.
template <class Server>
class connector {
public:
    connector(Server& server, const attach_options& o) : server_{server}, options_{o} {}

    /// Makes the connections. The first of them finds out the terms of the export.
    [[nodiscard]] std::error_code operator()(device_sockets& to)
    {
        to = {};
        const auto wanted = std::max<std::size_t>(options_.connections, 1);
        for (std::size_t made = 0; made < wanted; ++made) {
            if (const auto failed = connect(to))
                return failed;
            if (made == 0 && wanted > 1 && !terms_.has(protocol::transmission_flag::can_multi_conn))
                return errc::one_connection_only;
        }
        return {};
    }
    [[nodiscard]] const protocol::export_terms& terms() const noexcept { return terms_; }

private:
    struct opening {
        std::error_code failed;
        protocol::export_terms terms;
    };

    [[nodiscard]] std::error_code connect(device_sockets& to)
    {
        int pair[2] = {-1, -1};
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
            return {errno, std::system_category()};
        owned_descriptor kernels{pair[0]};
        owned_descriptor servers{pair[1]};
        owned_descriptor observed{::fcntl(servers.get(), F_DUPFD_CLOEXEC, 0)};
        if (observed.get() < 0)
            return {errno, std::system_category()};
        const int buffer = 2 << 20;  // as the server's end has
        ::setsockopt(kernels.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
        // If the server destroys the function uncalled, the promise breaks.
        auto promise = std::make_shared<std::promise<opening>>();
        auto opened = promise->get_future();
        std::error_code failed;
        server_.adopt(servers.release(),
                      {.export_name = options_.export_name,
                       .opened =
                           [promise](std::error_code why, const protocol::export_terms& terms) {
                               promise->set_value({why, terms});
                           }},
                      failed);
        if (failed)
            return failed;
        promise.reset();
        if (opened.wait_for(options_.ready_timeout) != std::future_status::ready)
            return errc::not_ready;
        try {
            const auto result = opened.get();
            if (result.failed)
                return result.failed;
            terms_ = result.terms;
        } catch (const std::future_error&) {
            return errc::not_served;
        }
        to.kernels.push_back(std::move(kernels));
        to.observed.push_back(std::move(observed));
        return {};
    }

    Server& server_;
    const attach_options& options_;
    protocol::export_terms terms_;
};

[[nodiscard]] inline std::uint64_t whole_seconds(std::chrono::milliseconds time) noexcept
{
    return static_cast<std::uint64_t>(std::chrono::ceil<std::chrono::seconds>(time).count());
}

/// Attaches an export of `server`. `owner`: what the device keeps alive.
template <class Server>
[[nodiscard]] attached attach_to(Server& server, const attach_options& o,
                                 std::shared_ptr<void> owner, std::error_code& error)
{
    device_request wanted{.block_size = o.block_size,
                          .timeout = whole_seconds(o.timeout),
                          .dead_connection_timeout = whole_seconds(o.dead_connection_timeout),
                          .identifier = o.identifier,
                          .wait_for_device = o.wait_for_device,
                          .ready_timeout = o.ready_timeout,
                          .stop = o.stop};
    if (!o.device.empty() && !(wanted.index = index_of(o.device))) {
        error = errc::bad_device_name;
        return {};
    }
    auto state = std::make_unique<attachment>(std::move(owner));
    device_sockets sockets;
    connector<Server> connect{server, o};
    error = state->device.open();
    if (!error)
        error = connect(sockets);
    if (error)
        return {};
    const auto terms = connect.terms();
    error = state->device.attach(std::move(wanted), terms, std::move(sockets), connect);
    if (error)
        return {};
    const auto found = server.exports().registered(o.export_name);
    using record = std::remove_cvref_t<decltype(*found)>;
    if constexpr (record::resizable || record::refreshes_size) {
        if (found) {
            const auto sizes = state->start_resizes(terms.size);
            found->shared->watchers.add(sizes, [](void* relay, std::uint64_t bytes) noexcept {
                static_cast<size_relay*>(relay)->set(bytes);
            });
            sizes->set(found->size.load());  // it may have changed before the watcher was added
        }
    }
    return attached{std::move(state)};
}

/// *Errors*: std::system_error, unless `failed` is none.
inline void throw_if(const std::error_code& failed, const std::string& name)
{
    if (failed)
        throw std::system_error{failed, "nbd: cannot attach " + (name.empty() ? "a device" : name)};
}

template <class T>
inline constexpr bool is_server = false;
template <class T, class B, class P, class O>
inline constexpr bool is_server<server<T, B, P, O>> = true;

}  // namespace kernel

/// Makes an export of a running server a block device of this machine:
///
///     nbd::attached device = nbd::attach(server, {.device = "/dev/nbd0", .export_name = "disk"});
///
/// Returns when the device can be used. The server's transport must be for UNIX sockets. A later
/// resize of the export reaches the device, if the export was added and not looked up.
/// *Errors*: kernel::errc; those of server::adopt, of the lookup and of the backend's `open`; the
/// kernel's. *Thread safety*: as server::adopt. It blocks: not on a thread that runs the server.
/// *Cancellation*: attach_options::stop. *Lifetime*: the server must not be destroyed before the
/// handle.
template <class T, class B, class P, class O>
[[nodiscard]] attached attach(server<T, B, P, O>& server, const attach_options& o,
                              std::error_code& error)
{
    return kernel::attach_to(server, o, nullptr, error);
}
/// As above, for a backend, which is moved or copied. The handle has a server of its own for it,
/// with a thread for each connection.
template <class Backend>
    requires(!kernel::is_server<std::remove_cvref_t<Backend>>)
[[nodiscard]] attached attach(Backend&& backend, const attach_options& o, std::error_code& error)
{
    using server_type = server<unix_transport, std::remove_cvref_t<Backend>, per_client_threads>;
    const auto own = std::make_shared<server_type>(unix_transport::settings{});
    own->exports().add(o.export_name, std::forward<Backend>(backend));
    own->start_without_listening(error);
    if (error)
        return {};
    return kernel::attach_to(*own, o, own, error);
}
/// As above; throws std::system_error.
template <class T, class B, class P, class O>
[[nodiscard]] attached attach(server<T, B, P, O>& server, const attach_options& o = {})
{
    std::error_code failed;
    auto made = nbd::attach(server, o, failed);
    kernel::throw_if(failed, o.device);
    return made;
}
template <class Backend>
    requires(!kernel::is_server<std::remove_cvref_t<Backend>>)
[[nodiscard]] attached attach(Backend&& backend, const attach_options& o = {})
{
    std::error_code failed;
    auto made = nbd::attach(std::forward<Backend>(backend), o, failed);
    kernel::throw_if(failed, o.device);
    return made;
}

}  // namespace nbd
