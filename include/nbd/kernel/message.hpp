// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <linux/nbd-netlink.h>
#include <netlink/attr.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>

namespace nbd::kernel {

/// What a message tells the kernel about a device. What is left out keeps its value.
struct device_configuration {
    std::optional<std::uint32_t> index{};  ///< left out in CONNECT: any free device
    std::optional<std::uint64_t> size{};   ///< bytes
    std::optional<std::uint64_t> block_size{};
    std::optional<std::uint64_t> timeout{};                  ///< seconds
    std::optional<std::uint64_t> dead_connection_timeout{};  ///< seconds
    std::optional<std::uint64_t> server_flags{};             ///< transmission flags
    std::vector<int> sockets{};                              ///< the kernel's ends
    std::string identifier{};                                ///< empty: none
};

/// Whether a device is connected, or is still held by a process that has it open.
struct device_state {
    std::uint32_t index = 0;
    bool connected = false;

    friend bool operator==(const device_state&, const device_state&) = default;
};

/// A message to the kernel's NBD client, as libnl has it. `family`: the number of the netlink
/// family "nbd". `command`: NBD_CMD_CONNECT, DISCONNECT, RECONFIGURE or STATUS.
/// *Errors*: std::bad_alloc.
class message {
public:
    message(int family, std::uint8_t command, const device_configuration& c)
        : message_{::nlmsg_alloc_size(256 + 16 * c.sockets.size() + c.identifier.size())}
    {
        if (!message_
            || ::genlmsg_put(message_.get(), NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, command,
                             NBD_GENL_VERSION)
                == nullptr)
            throw std::bad_alloc{};
        if (c.index)
            check(::nla_put_u32(message_.get(), NBD_ATTR_INDEX, *c.index));
        put(NBD_ATTR_SIZE_BYTES, c.size);
        put(NBD_ATTR_BLOCK_SIZE_BYTES, c.block_size);
        put(NBD_ATTR_TIMEOUT, c.timeout);
        put(NBD_ATTR_DEAD_CONN_TIMEOUT, c.dead_connection_timeout);
        put(NBD_ATTR_SERVER_FLAGS, c.server_flags);
        if (!c.sockets.empty()) {
            const auto all = nest(NBD_ATTR_SOCKETS);
            for (const int socket : c.sockets) {
                const auto one = nest(NBD_SOCK_ITEM);
                check(
                    ::nla_put_u32(message_.get(), NBD_SOCK_FD, static_cast<std::uint32_t>(socket)));
                ::nla_nest_end(message_.get(), one);
            }
            ::nla_nest_end(message_.get(), all);
        }
        if (!c.identifier.empty())
            check(::nla_put_string(message_.get(), NBD_ATTR_BACKEND_IDENTIFIER,
                                   c.identifier.c_str()));
    }

    [[nodiscard]] ::nl_msg* get() const noexcept { return message_.get(); }

private:
    struct deleter {
        void operator()(::nl_msg* m) const noexcept { ::nlmsg_free(m); }
    };
    static void check(int result)
    {
        if (result < 0)
            throw std::bad_alloc{};
    }
    void put(int attribute, const std::optional<std::uint64_t>& value)
    {
        if (value)
            check(::nla_put_u64(message_.get(), attribute, *value));
    }
    [[nodiscard]] ::nlattr* nest(int attribute)
    {
        auto* const begun = ::nla_nest_start(message_.get(), attribute);
        if (begun == nullptr)
            throw std::bad_alloc{};
        return begun;
    }

    std::unique_ptr<::nl_msg, deleter> message_;
};

/// What a message of the kernel says.
struct answer {
    std::uint8_t command = 0;              ///< NBD_CMD_CONNECT, STATUS or LINK_DEAD
    std::optional<std::uint32_t> index{};  ///< the device, but for STATUS
    std::vector<device_state> devices{};   ///< for STATUS
};

/// Reads a message of the kernel's NBD client. *Returns* nullopt if it is not well-formed.
[[nodiscard]] inline std::optional<answer> parse(::nlmsghdr* header)
{
    if (::genlmsg_valid_hdr(header, 0) == 0)
        return std::nullopt;
    ::nla_policy allowed[NBD_ATTR_MAX + 1]{};
    allowed[NBD_ATTR_INDEX].type = NLA_U32;
    allowed[NBD_ATTR_DEVICE_LIST].type = NLA_NESTED;
    ::nlattr* found[NBD_ATTR_MAX + 1]{};
    if (::genlmsg_parse(header, 0, found, NBD_ATTR_MAX, allowed) < 0)
        return std::nullopt;
    answer said{.command = ::genlmsg_hdr(header)->cmd};
    if (found[NBD_ATTR_INDEX] != nullptr)
        said.index = ::nla_get_u32(found[NBD_ATTR_INDEX]);
    if (auto* const list = found[NBD_ATTR_DEVICE_LIST]; list != nullptr) {
        ::nla_policy items[NBD_DEVICE_ATTR_MAX + 1]{};
        items[NBD_DEVICE_INDEX].type = NLA_U32;
        items[NBD_DEVICE_CONNECTED].type = NLA_U8;
        int left = ::nla_len(list);
        for (auto* item = static_cast<::nlattr*>(::nla_data(list)); ::nla_ok(item, left) != 0;
             item = ::nla_next(item, &left)) {
            ::nlattr* of_device[NBD_DEVICE_ATTR_MAX + 1]{};
            if (::nla_parse_nested(of_device, NBD_DEVICE_ATTR_MAX, item, items) < 0
                || of_device[NBD_DEVICE_INDEX] == nullptr
                || of_device[NBD_DEVICE_CONNECTED] == nullptr)
                return std::nullopt;
            said.devices.push_back({::nla_get_u32(of_device[NBD_DEVICE_INDEX]),
                                    ::nla_get_u8(of_device[NBD_DEVICE_CONNECTED]) != 0});
        }
    }
    return said;
}

}  // namespace nbd::kernel
