// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/member_names.hpp>

/// The rules for each member of a backend: a required one exists, and none has a wrong shape.
///
/// Each function returns whether its rules are kept. The first that is broken becomes a compile
/// error of one sentence if `Explain` is true.
namespace nbd::diagnosis {

/// Whether a write of one shape is right, and one of the other shape truncates its offset.
template <class B>
concept narrows_a_write =
    (
        has_fua_write<B> && !has_plain_write<B>
        && requires(B& b, const std::uint64_t offset,
                    const std::span<const std::byte> from) { b.write(offset, from); }
        && !requires(B& b, const wide_offset offset,
                     const std::span<const std::byte> from) { b.write(offset, from); })
    || (has_plain_write<B> && !has_fua_write<B>
        && requires(B& b, const std::uint64_t offset, const std::span<const std::byte> from,
                    const write_flags flags) { b.write(offset, from, flags); });

template <class B, bool Explain = false>
consteval bool shapes_are_sound()
{
    if constexpr (!has_size<B> && !names_size<B>) {
        static_assert(!Explain,
                      "nbd: a backend needs `std::uint64_t size() const`, its size in bytes");
        return false;
    } else if constexpr (!has_size<B> && names_size<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's size has the wrong shape; expected `std::uint64_t size() const`");
        return false;
    } else if constexpr (!readable_backend<B> && !names_read<B> && !names_handle<B>
                         && !names_async_read<B>) {
        static_assert(
            !Explain,
            "nbd: a backend needs `std::error_code read(std::uint64_t offset, std::span<std::byte> "
            "to)`, or the same returning void, nbd::failure or boost::asio::awaitable; or "
            "async_read or handle, see nbd/concepts/backend.hpp");
        return false;
    } else if constexpr (!has_read<B> && names_read<B>) {
        static_assert(!Explain,
                      "nbd: this backend's read has the wrong shape; expected `std::error_code "
                      "read(std::uint64_t offset, std::span<std::byte> to)`, or the same returning "
                      "void, nbd::failure or boost::asio::awaitable");
        return false;
    } else if constexpr (!has_async_read<B> && names_async_read<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's async_read has the wrong shape; expected `void "
            "async_read(std::uint64_t offset, std::span<std::byte> to, nbd::completion done)`");
        return false;
    } else if constexpr (!has_handle<B> && names_handle<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's handle has the wrong shape; expected `void handle(nbd::call&)`, "
            "or the same returning std::error_code, nbd::failure or boost::asio::awaitable");
        return false;
    } else if constexpr ((!has_write<B> && names_write<B>) || narrows_a_write<B>) {
        static_assert(!Explain,
                      "nbd: this backend's write has the wrong shape; expected `std::error_code "
                      "write(std::uint64_t offset, std::span<const std::byte> from)`, with a third "
                      "parameter `nbd::write_flags` for native FUA, or the same returning void, "
                      "nbd::failure or boost::asio::awaitable");
        return false;
    } else if constexpr (!has_flush<B> && names_flush<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's flush has the wrong shape; expected `std::error_code flush()`, or "
            "the same returning void, nbd::failure or boost::asio::awaitable");
        return false;
    } else if constexpr (!has_trim<B> && names_trim<B>) {
        static_assert(!Explain,
                      "nbd: this backend's trim has the wrong shape; expected `std::error_code "
                      "trim(std::uint64_t offset, std::uint64_t length)`, or the same returning "
                      "void, nbd::failure or boost::asio::awaitable");
        return false;
    } else if constexpr (!has_write_zeroes<B> && names_write_zeroes<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's write_zeroes has the wrong shape; expected `std::error_code "
            "write_zeroes(std::uint64_t offset, std::uint64_t length, nbd::zero_flags)`, or the "
            "same returning void, nbd::failure or boost::asio::awaitable");
        return false;
    } else if constexpr (!has_cache<B> && names_cache<B>) {
        static_assert(!Explain,
                      "nbd: this backend's cache has the wrong shape; expected `std::error_code "
                      "cache(std::uint64_t offset, std::uint64_t length)`, or the same returning "
                      "void, nbd::failure or boost::asio::awaitable");
        return false;
    } else if constexpr (!has_extents<B> && names_extents<B>) {
        static_assert(!Explain,
                      "nbd: this backend's extents has the wrong shape; expected `std::error_code "
                      "extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)`, "
                      "or the same returning void, nbd::failure or boost::asio::awaitable");
        return false;
    } else if constexpr (!has_lend<B> && names_lend<B>) {
        static_assert(!Explain,
                      "nbd: this backend's lend has the wrong shape; expected `std::span<const "
                      "std::byte> lend(std::uint64_t offset, std::size_t length) noexcept`");
        return false;
    } else if constexpr (!has_lend_file<B> && names_lend_file<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's lend_file has the wrong shape; expected `nbd::file_range "
            "lend_file(std::uint64_t offset, std::size_t length) noexcept`");
        return false;
    } else if constexpr (!has_read_now<B> && names_read_now<B>) {
        static_assert(!Explain,
                      "nbd: this backend's read_now has the wrong shape; expected `std::size_t "
                      "read_now(std::uint64_t offset, std::span<std::byte> to) noexcept`");
        return false;
    } else if constexpr (!has_lend_for_write<B> && names_lend_for_write<B>) {
        static_assert(!Explain,
                      "nbd: this backend's lend_for_write has the wrong shape; expected "
                      "`std::span<std::byte> lend_for_write(std::uint64_t offset, std::size_t "
                      "length) noexcept`");
        return false;
    } else if constexpr (!has_lent_written<B> && names_lent_written<B>) {
        static_assert(!Explain,
                      "nbd: this backend's lent_written has the wrong shape; expected `void "
                      "lent_written(std::uint64_t offset, std::size_t length) noexcept`");
        return false;
    } else if constexpr (!has_meta_contexts<B>
                         && (names_meta_contexts<B> || names_context_extents<B>)) {
        static_assert(!Explain,
                      "nbd: this backend's own contexts have the wrong shape; expected "
                      "`std::span<const nbd::meta_context> meta_contexts() const`, of contexts "
                      "that the backend keeps, and `std::error_code context_extents(std::size_t "
                      "index, std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)`");
        return false;
    } else if constexpr (!has_resize<B> && names_resize<B>) {
        static_assert(!Explain,
                      "nbd: this backend's resize has the wrong shape; expected `std::error_code "
                      "resize(std::uint64_t size)`, or the same returning void, nbd::failure or "
                      "boost::asio::awaitable");
        return false;
    } else if constexpr (!has_refresh_size<B> && names_refresh_size<B>) {
        static_assert(!Explain,
                      "nbd: this backend's refresh_size has the wrong shape; expected "
                      "`std::uint64_t refresh_size() noexcept`");
        return false;
    } else if constexpr (!has_block_sizes<B> && names_block_sizes<B>) {
        static_assert(!Explain,
                      "nbd: this backend's block_sizes has the wrong shape; expected "
                      "`nbd::block_sizes block_sizes() const`");
        return false;
    } else if constexpr (!has_abilities<B> && names_abilities<B>) {
        static_assert(!Explain,
                      "nbd: this backend's abilities has the wrong shape; expected "
                      "`nbd::abilities abilities() const`");
        return false;
    } else {
        return true;
    }
}

/// The members that only a backend with callbacks has.
template <class B, bool Explain = false>
consteval bool callback_shapes_are_sound()
{
    if constexpr (!calls_back<B>) {
        return true;
    } else if constexpr (!has_write<B> && names_async_write<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's async_write has the wrong shape; expected `void "
            "async_write(std::uint64_t offset, std::span<const std::byte> from, nbd::completion "
            "done)`, with an `nbd::write_flags` before the last parameter for native FUA");
        return false;
    } else if constexpr (!has_flush<B> && names_async_flush<B>) {
        static_assert(!Explain,
                      "nbd: this backend's async_flush has the wrong shape; expected `void "
                      "async_flush(nbd::completion done)`");
        return false;
    } else if constexpr (!has_trim<B> && names_async_trim<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's async_trim has the wrong shape; expected `void "
            "async_trim(std::uint64_t offset, std::uint64_t length, nbd::completion done)`");
        return false;
    } else if constexpr (!has_write_zeroes<B> && names_async_write_zeroes<B>) {
        static_assert(!Explain,
                      "nbd: this backend's async_write_zeroes has the wrong shape; expected `void "
                      "async_write_zeroes(std::uint64_t offset, std::uint64_t length, "
                      "nbd::zero_flags flags, nbd::completion done)`");
        return false;
    } else if constexpr (!has_cache<B> && names_async_cache<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's async_cache has the wrong shape; expected `void "
            "async_cache(std::uint64_t offset, std::uint64_t length, nbd::completion done)`");
        return false;
    } else if constexpr (!has_extents<B> && names_async_extents<B>) {
        static_assert(!Explain,
                      "nbd: this backend's async_extents has the wrong shape; expected `void "
                      "async_extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& "
                      "to, nbd::completion done)`");
        return false;
    } else if constexpr (!has_meta_contexts<B> && names_async_context_extents<B>) {
        static_assert(
            !Explain,
            "nbd: this backend's async_context_extents has the wrong shape; expected `void "
            "async_context_extents(std::size_t index, std::uint64_t offset, std::uint64_t length, "
            "nbd::extent_list& to, nbd::completion done)`, with `meta_contexts`");
        return false;
    } else {
        return true;
    }
}

}  // namespace nbd::diagnosis
