// SPDX-License-Identifier: MIT
// The messages to the kernel's NBD client, as bytes, and what it answers.
#include "catch.hpp"
#include <nbd/kernel/message.hpp>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <linux/nbd-netlink.h>
#include <netlink/attr.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>

using namespace nbd::kernel;

namespace {

/// The bytes of a message after its netlink header, as 16-bit words of this machine.
std::vector<std::uint16_t> words(const message& m)
{
    auto* const header = ::nlmsg_hdr(m.get());
    std::vector<std::uint16_t> all((header->nlmsg_len - NLMSG_HDRLEN) / 2);
    std::memcpy(all.data(), ::nlmsg_data(header), all.size() * 2);
    return all;
}
constexpr std::uint16_t nested = NLA_F_NESTED;

}  // namespace

TEST_CASE("a DISCONNECT has the number of the device")
{
    const message m{33, NBD_CMD_DISCONNECT, {.index = 0x10002}};
    CHECK(::nlmsg_hdr(m.get())->nlmsg_type == 33);
    CHECK(words(m) == std::vector<std::uint16_t>{0x0102, 0, 8, NBD_ATTR_INDEX, 2, 1});
}

TEST_CASE("a CONNECT has what is set, and nothing else")
{
    const message m{1, NBD_CMD_CONNECT, {.size = 4096, .sockets = {5, 6}, .identifier = "abc"}};
    auto all = words(m);
    for (auto& word : all)  // versions of libnl set or do not set the flag of a nest
        word = static_cast<std::uint16_t>(word & ~nested);
    CHECK(all
          == std::vector<std::uint16_t>{0x0101,
                                        0,  //
                                        12,
                                        NBD_ATTR_SIZE_BYTES,
                                        4096,
                                        0,
                                        0,
                                        0,  //
                                        28,
                                        NBD_ATTR_SOCKETS,  //
                                        12,
                                        NBD_SOCK_ITEM,
                                        8,
                                        NBD_SOCK_FD,
                                        5,
                                        0,  //
                                        12,
                                        NBD_SOCK_ITEM,
                                        8,
                                        NBD_SOCK_FD,
                                        6,
                                        0,  //
                                        8,
                                        NBD_ATTR_BACKEND_IDENTIFIER,
                                        'a' | 'b' << 8,
                                        'c'});
}

TEST_CASE("a message has room for many connections and a long identifier")
{
    const std::vector<int> many(1000, 7);
    const message m{1,
                    NBD_CMD_CONNECT,
                    {.index = 1,
                     .size = 1,
                     .block_size = 512,
                     .timeout = 1,
                     .dead_connection_timeout = 1,
                     .server_flags = 1,
                     .sockets = many,
                     .identifier = std::string(4096, 'x')}};
    CHECK(::nlmsg_hdr(m.get())->nlmsg_len > 1000 * 12 + 4096);
}

TEST_CASE("the reply to CONNECT has the number of the device")
{
    const message m{1, NBD_CMD_CONNECT, {.index = 7}};
    const auto said = parse(::nlmsg_hdr(m.get()));
    REQUIRE(said);
    CHECK(said->command == NBD_CMD_CONNECT);
    CHECK(said->index == 7U);
    CHECK(said->devices.empty());
}

TEST_CASE("the reply to STATUS has devices")
{
    const message m{1, NBD_CMD_STATUS, {}};
    auto* const list = ::nla_nest_start(m.get(), NBD_ATTR_DEVICE_LIST);
    for (const device_state one : {device_state{0, true}, device_state{9, false}}) {
        auto* const item = ::nla_nest_start(m.get(), NBD_DEVICE_ITEM);
        ::nla_put_u32(m.get(), NBD_DEVICE_INDEX, one.index);
        ::nla_put_u8(m.get(), NBD_DEVICE_CONNECTED, one.connected ? 1 : 0);
        ::nla_nest_end(m.get(), item);
    }
    ::nla_nest_end(m.get(), list);
    const auto said = parse(::nlmsg_hdr(m.get()));
    REQUIRE(said);
    CHECK(said->devices == std::vector<device_state>{{0, true}, {9, false}});
}

TEST_CASE("a malformed message is refused")
{
    const message with_narrow_index{1, NBD_CMD_CONNECT, {}};
    ::nla_put_u8(with_narrow_index.get(), NBD_ATTR_INDEX, 1);
    CHECK_FALSE(parse(::nlmsg_hdr(with_narrow_index.get())));

    const message with_half_a_device{1, NBD_CMD_STATUS, {}};
    auto* const list = ::nla_nest_start(with_half_a_device.get(), NBD_ATTR_DEVICE_LIST);
    auto* const item = ::nla_nest_start(with_half_a_device.get(), NBD_DEVICE_ITEM);
    ::nla_put_u32(with_half_a_device.get(), NBD_DEVICE_INDEX, 1);
    ::nla_nest_end(with_half_a_device.get(), item);
    ::nla_nest_end(with_half_a_device.get(), list);
    CHECK_FALSE(parse(::nlmsg_hdr(with_half_a_device.get())));

    const message cut{1, NBD_CMD_STATUS, {}};
    ::nlmsg_hdr(cut.get())->nlmsg_len = NLMSG_HDRLEN + 2;
    CHECK_FALSE(parse(::nlmsg_hdr(cut.get())));
}
