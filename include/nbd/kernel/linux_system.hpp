// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/kernel/error.hpp>
#include <nbd/kernel/message.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <linux/netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace nbd::kernel {

/// What `device` needs of the system: netlink, the kernel's events, and sysfs.
/// *Thread safety*: distinct objects.
class linux_system {
public:
    using clock = std::chrono::steady_clock;

    /// Connects to the kernel's NBD client. *Errors*: errc::no_module; the system's.
    [[nodiscard]] std::error_code open()
    {
        requests_.reset(::nl_socket_alloc());
        events_.reset(::nl_socket_alloc());
        if (!requests_ || !events_)
            return std::make_error_code(std::errc::not_enough_memory);
        for (auto* const socket : {requests_.get(), events_.get()}) {
            errno = 0;
            if (::genl_connect(socket) < 0)
                return last_error();
        }
        family_ = ::genl_ctrl_resolve(requests_.get(), NBD_GENL_FAMILY_NAME);
        if (family_ < 0)
            return errc::no_module;
        // Without events, wait() ends when its time is over.
        const int group =
            ::genl_ctrl_resolve_grp(events_.get(), NBD_GENL_FAMILY_NAME, NBD_GENL_MCAST_GROUP_NAME);
        if (group >= 0)
            ::nl_socket_add_membership(events_.get(), group);
        ::nl_socket_set_nonblocking(events_.get());
        listen_to_devices();
        return {};
    }
    [[nodiscard]] int family() const noexcept { return family_; }

    /// Sends a request, and calls `replied` with each message that answers it.
    /// *Errors*: the kernel's, in the system's category.
    template <class F>
    [[nodiscard]] std::error_code request(const message& m, F replied)
    {
        struct exchange {
            F* replied;
            std::error_code failed{};
            bool done = false;
        } now{&replied};
        const std::unique_ptr<::nl_cb, callbacks_deleter> callbacks{::nl_cb_alloc(NL_CB_DEFAULT)};
        if (!callbacks)
            return std::make_error_code(std::errc::not_enough_memory);
        ::nl_cb_set(
            callbacks.get(), NL_CB_VALID, NL_CB_CUSTOM,
            [](::nl_msg* received, void* to) -> int {
                (*static_cast<exchange*>(to)->replied)(::nlmsg_hdr(received));
                return NL_OK;
            },
            &now);
        ::nl_cb_set(
            callbacks.get(), NL_CB_ACK, NL_CB_CUSTOM,
            [](::nl_msg*, void* to) -> int {
                static_cast<exchange*>(to)->done = true;
                return NL_STOP;
            },
            &now);
        // libnl's own numbers do not tell all of the kernel's errors apart.
        ::nl_cb_err(
            callbacks.get(), NL_CB_CUSTOM,
            [](::sockaddr_nl*, ::nlmsgerr* error, void* to) -> int {
                auto& e = *static_cast<exchange*>(to);
                e.failed = {-error->error, std::system_category()};
                e.done = true;
                return NL_STOP;
            },
            &now);
        errno = 0;
        if (::nl_send_auto(requests_.get(), m.get()) < 0)
            return last_error();
        while (!now.done) {
            errno = 0;
            if (::nl_recvmsgs(requests_.get(), callbacks.get()) < 0 && !now.done)
                return last_error();
        }
        return now.failed;
    }

    /// Returns when a device has changed or a connection has died, or after `most`.
    void wait(std::chrono::milliseconds most)
    {
        ::pollfd both[2] = {{::nl_socket_get_fd(events_.get()), POLLIN, 0},
                            {devices_ ? devices_->get() : -1, POLLIN, 0}};
        if (::poll(both, 2, static_cast<int>(most.count())) <= 0)
            return;
        char ignored[4096];
        for (const auto& one : both)
            while (one.revents != 0  // POLLERR: recv takes the error
                   && ::recv(one.fd, ignored, sizeof(ignored), MSG_DONTWAIT) > 0) {
            }
    }

    /// *Returns* the first line of /sys/block/nbdN/NAME, or nullopt if there is none.
    [[nodiscard]] static std::optional<std::string> attribute(std::uint32_t index, const char* name)
    {
        std::ifstream file{path_of(index) + name};
        std::string line;
        if (!file || !std::getline(file, line))
            return std::nullopt;
        return line;
    }
    /// Writes /sys/block/nbdN/NAME. *Returns* whether it could.
    [[nodiscard]] static bool set_attribute(std::uint32_t index, const char* name,
                                            const std::string& text)
    {
        std::ofstream file{path_of(index) + name};
        return static_cast<bool>(file << text << std::flush);
    }
    /// Whether /dev/nbdN is the block device that the kernel calls so.
    [[nodiscard]] static bool has_node(std::uint32_t index)
    {
        struct ::stat node {};
        if (::stat(("/dev/nbd" + std::to_string(index)).c_str(), &node) != 0
            || !S_ISBLK(node.st_mode))
            return false;
        return attribute(index, "dev")
            == std::to_string(major(node.st_rdev)) + ':' + std::to_string(minor(node.st_rdev));
    }
    /// Whether the other end of a socket pair is closed.
    [[nodiscard]] static bool hung_up(int socket) noexcept
    {
        ::pollfd one{socket, 0, 0};
        return ::poll(&one, 1, 0) == 1 && (one.revents & POLLHUP) != 0;
    }
    [[nodiscard]] static std::uint64_t page_size() noexcept
    {
        return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    }

private:
    struct socket_deleter {
        void operator()(::nl_sock* s) const noexcept { ::nl_socket_free(s); }
    };
    struct callbacks_deleter {
        void operator()(::nl_cb* c) const noexcept { ::nl_cb_put(c); }
    };
    [[nodiscard]] static std::error_code last_error() noexcept
    {
        return {errno != 0 ? errno : EIO, std::system_category()};
    }
    [[nodiscard]] static std::string path_of(std::uint32_t index)
    {
        return "/sys/block/nbd" + std::to_string(index) + '/';
    }
    /// The kernel's messages about devices, which udev uses too.
    void listen_to_devices()
    {
        owned_descriptor socket{::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                                         NETLINK_KOBJECT_UEVENT)};
        ::sockaddr_nl address{};
        address.nl_family = AF_NETLINK;
        address.nl_groups = 1;
        if (socket.get() >= 0
            && ::bind(socket.get(), reinterpret_cast<const ::sockaddr*>(&address), sizeof(address))
                == 0)
            devices_.emplace(std::move(socket));
    }

    std::unique_ptr<::nl_sock, socket_deleter> requests_;
    std::unique_ptr<::nl_sock, socket_deleter> events_;
    std::optional<owned_descriptor> devices_;
    int family_ = -1;
};

}  // namespace nbd::kernel
