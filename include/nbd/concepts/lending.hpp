// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/wide_integer.hpp>
#include <nbd/vocabulary/backend_types.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ranges>
#include <span>
#include <type_traits>

/// The members of a backend by which data need no buffer or no other thread: that lend memory or a
/// file, or read at once; see concepts/backend.hpp.
namespace nbd {

/// A range that does not own its elements, or a reference to one that outlives the call. A
/// container that is returned by value does not qualify: a span of it would dangle.
template <class T, class Element>
concept lent_range = std::convertible_to<T, std::span<Element>>
    && (std::is_lvalue_reference_v<T>
        || std::ranges::enable_borrowed_range<std::remove_cvref_t<T>>);

/// Lends `length` bytes of memory to send from. If it returns an empty span, the server calls
/// `read`. The memory must stay valid while the backend lives. The server reads it without a lock,
/// so the backend must promise `parallel`.
template <class B>
concept has_lend =
    requires(B& b, const wide_offset offset, const wide_size length, const std::uint64_t n) {
        { b.lend(offset, length) } noexcept -> lent_range<const std::byte>;
        b.lend(n, n);
    };

/// *Returns* where the data are in a file. If it returns no file, the server calls `read`. A range
/// with `sure` must not be truncated while it is sent. The backend must promise `parallel`. The
/// server uses lend_file only where it executes requests in order: not for asynchronous backends,
/// and not on the extra threads of strand_pool.
template <class B>
concept has_lend_file =
    requires(B& b, const wide_offset offset, const wide_size length, const std::uint64_t n) {
        { b.lend_file(offset, length) } noexcept -> std::convertible_to<file_range>;
        b.lend_file(n, n);
    };

/// Reads what needs no wait: memory, or what the system has cached. *Returns* the bytes read, from
/// the start of `to`; if they are fewer than `to.size()`, the server calls `read`. It saves the
/// change of thread for a backend that promises `blocks` and not `serialize_all`; the server calls
/// it for no other, on the thread of the client, which serves other clients too.
template <class B>
concept has_read_now =
    requires(B& b, const wide_offset offset, const std::span<std::byte> to, const std::uint64_t n) {
        { b.read_now(offset, to) } noexcept -> std::same_as<std::size_t>;
        b.read_now(n, to);
    };

/// Lends `length` bytes of memory to receive the payload of a large WRITE into. If it returns an
/// empty span, the payload is received into a buffer and the server calls `write`, as for small
/// payloads. If the client leaves during the payload, a part of the new data is in that memory. The
/// server uses it for the same backends as lend_file.
template <class B>
concept has_lend_for_write =
    requires(B& b, const wide_offset offset, const wide_size length, const std::uint64_t n) {
        { b.lend_for_write(offset, length) } noexcept -> lent_range<std::byte>;
        b.lend_for_write(n, n);
    };

/// Optional. Called when the server has received the whole range that lend_for_write lent.
template <class B>
concept has_lent_written =
    requires(B& b, const wide_offset offset, const wide_size length, const std::uint64_t n) {
        { b.lent_written(offset, length) } noexcept;
        b.lent_written(n, n);
    };

}  // namespace nbd
