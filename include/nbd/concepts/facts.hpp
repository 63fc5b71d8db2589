// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/terms.hpp>
#include <nbd/vocabulary/backend_types.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

/// The members with which a backend describes its disk; see concepts/backend.hpp.
namespace nbd {

using protocol::block_sizes;

/// The size of the export in bytes, of a type that does not truncate it. Called once for each
/// export or, for a backend with `open`, once for each client. Only `resize` and `refresh_size`
/// change the size.
template <class B>
concept has_size = requires(const B& b) {
    { b.size() } -> std::convertible_to<std::uint64_t>;
    requires !std::is_arithmetic_v<std::remove_cvref_t<decltype(b.size())>>
        || (std::integral<std::remove_cvref_t<decltype(b.size())>>
            && sizeof(b.size()) >= sizeof(std::size_t));
};

/// The block sizes of the export. *Thread safety*: called at the same time as other members.
template <class B>
concept has_block_sizes = requires(const B& b) {
    { b.block_sizes() } -> std::convertible_to<nbd::block_sizes>;
};

/// What the backend can do, of what its type offers, known at run time only: a file may be open
/// for reading, and a device may have no TRIM. A client gets the flags of the type, without those
/// that this member withholds, and without those that the export's settings withhold.
///
/// Called when the export is added, and once whenever a client opens it: the client keeps what it
/// was told until it leaves. With `open`, it is called once for each object that `open` returns.
/// *Errors*: an exception refuses the client.
/// *Thread safety*: called at the same time as other members, from any thread, without a lock.
template <class B>
concept has_abilities = requires(const B& b) {
    { b.abilities() } -> std::convertible_to<nbd::abilities>;
};

}  // namespace nbd
