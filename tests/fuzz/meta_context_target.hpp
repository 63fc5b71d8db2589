// SPDX-License-Identifier: MIT
// The parsing of option data and of the payload of BLOCK_STATUS, and the rules of queries. The
// first byte of an input chooses the form of replies, the second what is parsed.
#pragma once

#include "handshake_model.hpp"
#include "harness.hpp"
#include <nbd/handshake/meta_context.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/transmission/block_status.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace nbd_fuzz::meta_context_target {

using nbd::protocol::reply_style;
using nbd_model::difference;
using nbd_model::fields;
using nbd_model::require;

constexpr std::array<nbd::protocol::meta_context, 5> contexts{
    {{"base:allocation"}, {"x-a:b"}, {"x-a:b:c"}, {"x-ab:"}, {"x-a:wide", true}}};

struct parsed {
    bool well_formed = false;
    std::string_view name;
    std::vector<std::string_view> queries;
    std::vector<unsigned> infos;
};
inline parsed parse(std::span<const std::byte> data, bool meta)
{
    parsed p;
    try {
        fields in{data};
        p.name = in.text(in.u32());
        if (meta)
            for (auto n = in.u32(); n != 0; --n)
                p.queries.push_back(in.text(in.u32()));
        else
            for (unsigned n = in.u16(); n != 0; --n)
                p.infos.push_back(in.u16());
        p.well_formed = in.left() == 0;
    } catch (const difference&) {
        p = {};
    }
    return p;
}

inline void compare_meta(std::span<const std::byte> data, reply_style style)
{
    auto expected = parse(data, true);
    expected.well_formed = expected.well_formed && nbd_model::is_string(expected.name)
        && std::all_of(expected.queries.begin(), expected.queries.end(), nbd_model::is_string);
    const auto made = nbd::protocol::decode_meta_request(data);
    require(made.has_value() == expected.well_formed, "meta context data, well formed or not");
    if (!made)
        return;
    require(made->export_name == expected.name && made->count == expected.queries.size(),
            "another export or number of queries");

    const auto usable = [&](const nbd::protocol::meta_context& c) {
        return style == reply_style::extended || (style == reply_style::structured && !c.wide);
    };
    std::vector<std::string_view> listed;
    std::vector<std::string_view> selected;
    for (const auto& c : contexts) {
        const auto any = [&](bool lists) {
            return std::any_of(expected.queries.begin(), expected.queries.end(),
                               [&](auto q) { return nbd_model::query_selects(q, c.name, lists); });
        };
        if (usable(c) && (expected.queries.empty() || any(true)))
            listed.push_back(c.name);
        if (usable(c) && any(false))
            selected.push_back(c.name);
    }
    const nbd::handshake::export_info info{
        .name = made->export_name, .description = {}, .terms = {}, .contexts = contexts};
    const auto compare = [](const nbd::handshake::reply_bytes& replies, std::uint32_t option,
                            const std::vector<std::string_view>& names) {
        fields in{replies};
        std::set<std::uint32_t> ids;
        for (const auto& name : names) {
            require(in.u64() == 0x0003e889045565a9U && in.u32() == option && in.u32() == 4,
                    "no META_CONTEXT reply");
            const auto length = in.u32();
            const auto id = in.u32();
            require(option == 9 ? id == 0 : ids.insert(id).second, "a wrong id");
            require(in.text(length - 4) == name, "another context");
        }
        require(in.left() == 0, "a context too many");
    };
    nbd::handshake::reply_bytes replies;
    nbd::handshake::list_contexts(replies, *made, info, style);
    compare(replies, 9, listed);
    replies.clear();
    nbd::handshake::context_selection selection;
    selection.select(replies, *made, info, style);
    compare(replies, 10, selected);
    require(selection.resolve(info, style).size() == selected.size(), "another selection");
    require(selection.resolve(info, reply_style::simple).empty(), "contexts with simple replies");
    auto other = info;
    other.contexts = std::span{contexts}.subspan(1);
    for (const auto& c : selection.resolve(other, style))
        require(other.contexts[c.index].name == contexts[c.id - 1].name, "the id of another name");
    other.name = "another";
    require(made->export_name == "another" || selection.resolve(other, style).empty(),
            "a selection for another export");
}

inline void compare_info(std::span<const std::byte> data)
{
    const auto expected = parse(data, false);
    const auto made = nbd::protocol::decode_info_request(data);
    require(made.has_value() == expected.well_formed, "INFO data, well formed or not");
    if (!made)
        return;
    require(made->name == expected.name, "another export");
    for (unsigned type = 0; type < 5; ++type)
        require(made->wants(static_cast<nbd::protocol::info>(type))
                    == (std::count(expected.infos.begin(), expected.infos.end(), type) != 0),
                "another information");
}

inline void compare_string(std::span<const std::byte> data)
{
    const std::string_view text{reinterpret_cast<const char*>(data.data()), data.size()};
    require(nbd::protocol::valid_string(text) == nbd_model::is_string(text), "UTF-8 or not");
}

inline void compare_payload(std::span<const std::byte> data)
{
    const auto made = nbd::transmission::decode_status_payload(data);
    bool good = data.size() >= 8 && data.size() % 4 == 0;
    std::multiset<std::uint32_t> ids;
    std::uint64_t length = 0;
    if (good) {
        fields in{data};
        length = in.u64();
        while (in.left() != 0) {
            const auto id = in.u32();
            good = good && !ids.contains(id);
            ids.insert(id);
        }
    }
    require(made.has_value() == good, "the payload of BLOCK_STATUS, well formed or not");
    require(!made
                || (made->length == length
                    && std::equal(ids.begin(), ids.end(), made->ids.begin(), made->ids.end())),
            "another payload");
}

/// Extents that are rounded to blocks: each block has the bits that all its bytes have, or that any
/// of them has.
inline void compare_extents(std::span<const std::byte> data, bool allocation)
{
    constexpr std::uint64_t block = 16;
    std::vector<nbd::extent> extents;
    std::vector<std::uint64_t> flags;  // of each byte
    for (const auto b : data.first(std::min<std::size_t>(data.size(), 500))) {
        const nbd::extent e{1 + (std::to_integer<unsigned>(b) >> 2),
                            std::to_integer<unsigned>(b) & 3};
        extents.push_back(e);
        flags.insert(flags.end(), static_cast<std::size_t>(e.length), e.flags);
    }
    nbd::transmission::align(extents, block, allocation);
    require(data.empty() == extents.empty(), "no extents, or some from none");
    std::size_t at = 0;
    for (std::size_t i = 0; i < extents.size(); ++i) {
        require(extents[i].length != 0 && extents[i].length % block == 0, "a part of a block");
        require(i == 0 || extents[i].flags != extents[i - 1].flags, "neighbours of one status");
        for (std::uint64_t n = 0; n < extents[i].length; n += block) {
            std::uint64_t all = 3;
            std::uint64_t any = 0;
            for (std::uint64_t k = 0; k < block; ++k, ++at) {
                all &= at < flags.size() ? flags[at] : 0;
                any |= at < flags.size() ? flags[at] : 0;
            }
            require(extents[i].flags == (allocation ? all : any), "another status of a block");
        }
    }
    require(extents.empty() || at == std::max<std::size_t>(flags.size() / block * block, block),
            "another number of blocks");
}

inline void run(std::span<const std::byte> rest)
{
    static std::vector<std::byte> input;
    choices c{rest};
    const auto style =
        c.next(std::array{reply_style::simple, reply_style::structured, reply_style::extended});
    const auto what = c.next() % 6;
    expand(rest, input, 5000);
    // Of exactly that size, so that a sanitizer sees a read past the end.
    const std::vector<std::byte> exact(input.begin(), input.end());
    switch (what) {
    case 0:
        return compare_meta(exact, style);
    case 1:
        return compare_info(exact);
    case 2:
        return compare_string(exact);
    case 3:
        return compare_payload(exact);
    default:
        return compare_extents(exact, what == 4);
    }
}

}  // namespace nbd_fuzz::meta_context_target
