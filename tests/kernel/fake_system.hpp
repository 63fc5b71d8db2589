// SPDX-License-Identifier: MIT
// The kernel's NBD client as drivers/block/nbd.c behaves, for `device`. Requests are the bytes that
// libnl would send; time passes only in wait().
#pragma once

#include <nbd/kernel/error.hpp>
#include <nbd/kernel/message.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/nbd-netlink.h>
#include <netlink/attr.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>
#include <poll.h>

namespace fake {

struct disk {
    bool bound = false;  ///< by netlink; otherwise only open, if openers is not 0
    int openers = 0;
    std::uint64_t size = 0;
    std::uint64_t block_size = 0;
    std::uint64_t timeout = 0;
    std::uint64_t dead_connection_timeout = 0;
    std::uint64_t flags = 0;
    std::string identifier{};
    std::string owner{};
    std::vector<nbd::owned_descriptor> sockets{};
    std::vector<bool> dead{};
    std::string max_sectors_kb = "1280";
    bool in_use() const { return bound || openers != 0; }
};

/// All of the kernel's state that a test looks at.
struct kernel {
    using time = std::chrono::milliseconds;

    std::map<std::uint32_t, disk> disks{};
    std::uint32_t most = 8;  ///< devices that the kernel can make
    bool has_module = true;
    bool permits = true;
    bool knows_identifiers = true;
    bool has_nodes = true;
    std::string process = "100";  ///< who makes the requests
    time now{0};
    std::vector<std::uint8_t> commands{};
    std::function<void(kernel&)> on_wait = [](kernel&) {};
    std::function<void(kernel&, std::uint8_t command)> on_request = [](kernel&, std::uint8_t) {};
};
inline kernel* present = nullptr;

class system {
public:
    struct clock {
        static kernel::time now() { return present->now; }
    };

    std::error_code open()
    {
        return present->has_module ? std::error_code{} : nbd::kernel::errc::no_module;
    }
    int family() const { return 1; }
    template <class F>
    std::error_code request(const nbd::kernel::message& m, F replied)
    {
        auto* const header = ::nlmsg_hdr(m.get());
        ::nlattr* a[NBD_ATTR_MAX + 1]{};
        ::genlmsg_parse(header, 0, a, NBD_ATTR_MAX, nullptr);
        const auto command = ::genlmsg_hdr(header)->cmd;
        present->commands.push_back(command);
        present->on_request(*present, command);
        std::optional<nbd::kernel::message> reply;
        const int failed = command == NBD_CMD_CONNECT ? connect(a, reply)
            : command == NBD_CMD_RECONFIGURE          ? reconfigure(a)
            : command == NBD_CMD_DISCONNECT           ? disconnect(a)
                                                      : status(a, reply);
        if (reply)
            replied(::nlmsg_hdr(reply->get()));
        return {failed, std::system_category()};
    }
    void wait(kernel::time most)
    {
        present->now += most;
        present->on_wait(*present);
    }
    static std::optional<std::string> attribute(std::uint32_t index, const std::string& name)
    {
        const auto at = present->disks.find(index);
        if (at == present->disks.end())
            return std::nullopt;
        const auto& d = at->second;
        if (name == "size")
            return std::to_string(d.size / 512);
        if (name == "queue/max_sectors_kb")
            return d.max_sectors_kb;
        if (name == "queue/logical_block_size")
            return std::to_string(d.block_size);
        if (name == "pid" && d.bound)
            return d.owner;
        if (name == "backend" && !d.identifier.empty() && present->knows_identifiers)
            return d.identifier;
        return std::nullopt;
    }
    static bool set_attribute(std::uint32_t index, const std::string& name, const std::string& text)
    {
        present->disks.at(index).max_sectors_kb = text;
        return name == "queue/max_sectors_kb";
    }
    static bool has_node(std::uint32_t) { return present->has_nodes; }
    static bool hung_up(int socket)
    {
        ::pollfd one{socket, 0, 0};
        return ::poll(&one, 1, 0) == 1 && (one.revents & POLLHUP) != 0;
    }
    static std::uint64_t page_size() { return 4096; }

private:
    static void set(std::uint64_t& value, ::nlattr* from)
    {
        if (from != nullptr)
            value = ::nla_get_u64(from);
    }
    static std::vector<int> sockets_of(::nlattr* list)
    {
        std::vector<int> all;
        int left = list == nullptr ? 0 : ::nla_len(list);
        for (auto* item = list == nullptr ? nullptr : static_cast<::nlattr*>(::nla_data(list));
             item != nullptr && ::nla_ok(item, left) != 0; item = ::nla_next(item, &left))
            all.push_back(
                static_cast<int>(::nla_get_u32(static_cast<::nlattr*>(::nla_data(item)))));
        return all;
    }
    static nbd::owned_descriptor hold(int socket)
    {
        return nbd::owned_descriptor{::fcntl(socket, F_DUPFD_CLOEXEC, 0)};
    }
    static int connect(::nlattr** a, std::optional<nbd::kernel::message>& reply)
    {
        auto& k = *present;
        if (!k.permits)
            return EPERM;
        std::uint32_t index = 0;
        if (a[NBD_ATTR_INDEX] != nullptr)
            index = ::nla_get_u32(a[NBD_ATTR_INDEX]);
        else
            while (k.disks[index].in_use())
                ++index;
        if (index >= k.most) {
            k.disks.erase(index);
            return EINVAL;
        }
        auto& d = k.disks[index];
        if (d.in_use())
            return EBUSY;
        d.bound = true;
        d.owner = k.process;
        set(d.size, a[NBD_ATTR_SIZE_BYTES]);
        set(d.block_size, a[NBD_ATTR_BLOCK_SIZE_BYTES]);
        set(d.timeout, a[NBD_ATTR_TIMEOUT]);
        set(d.dead_connection_timeout, a[NBD_ATTR_DEAD_CONN_TIMEOUT]);
        set(d.flags, a[NBD_ATTR_SERVER_FLAGS]);
        if (a[NBD_ATTR_BACKEND_IDENTIFIER] != nullptr)
            d.identifier = ::nla_get_string(a[NBD_ATTR_BACKEND_IDENTIFIER]);
        for (const int socket : sockets_of(a[NBD_ATTR_SOCKETS])) {
            d.sockets.push_back(hold(socket));
            d.dead.push_back(false);
        }
        reply.emplace(1, std::uint8_t{NBD_CMD_CONNECT},
                      nbd::kernel::device_configuration{.index = index});
        return 0;
    }
    static int reconfigure(::nlattr** a)
    {
        auto& d = present->disks[::nla_get_u32(a[NBD_ATTR_INDEX])];
        if (!d.bound
            || (!d.identifier.empty()
                && (a[NBD_ATTR_BACKEND_IDENTIFIER] == nullptr
                    || ::nla_get_string(a[NBD_ATTR_BACKEND_IDENTIFIER]) != d.identifier)))
            return EINVAL;
        set(d.size, a[NBD_ATTR_SIZE_BYTES]);
        set(d.block_size, a[NBD_ATTR_BLOCK_SIZE_BYTES]);
        set(d.timeout, a[NBD_ATTR_TIMEOUT]);
        set(d.dead_connection_timeout, a[NBD_ATTR_DEAD_CONN_TIMEOUT]);
        for (const int socket : sockets_of(a[NBD_ATTR_SOCKETS])) {
            std::size_t at = 0;
            while (at < d.dead.size() && !d.dead[at])
                ++at;
            if (at == d.dead.size())
                return 0;  // as the kernel: the rest is dropped
            d.dead[at] = false;
            d.sockets.push_back(hold(socket));
        }
        return 0;
    }
    static int disconnect(::nlattr** a)
    {
        auto& d = present->disks[::nla_get_u32(a[NBD_ATTR_INDEX])];
        const int openers = d.openers;
        if (openers == 0)
            d = disk{};
        d.sockets.clear();
        return 0;
    }
    static int status(::nlattr** a, std::optional<nbd::kernel::message>& reply)
    {
        const auto index = ::nla_get_u32(a[NBD_ATTR_INDEX]);
        reply.emplace(1, std::uint8_t{NBD_CMD_STATUS}, nbd::kernel::device_configuration{});
        auto* const m = reply->get();
        auto* const list = ::nla_nest_start(m, NBD_ATTR_DEVICE_LIST);
        auto* const item = ::nla_nest_start(m, NBD_DEVICE_ITEM);
        ::nla_put_u32(m, NBD_DEVICE_INDEX, index);
        ::nla_put_u8(m, NBD_DEVICE_CONNECTED, present->disks[index].in_use() ? 1 : 0);
        ::nla_nest_end(m, item);
        ::nla_nest_end(m, list);
        return 0;
    }
};

}  // namespace fake
