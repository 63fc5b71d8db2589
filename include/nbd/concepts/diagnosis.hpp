// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/names_member.hpp>

/// One readable sentence for a backend that lacks something or has a member of the wrong shape. A
/// member that exists but cannot be called as expected must never pass silently for "absent".
namespace nbd::diagnosis {

NBD_NAMES_MEMBER(size)
NBD_NAMES_MEMBER(read)
NBD_NAMES_MEMBER(handle)
NBD_NAMES_MEMBER(write)
NBD_NAMES_MEMBER(flush)
NBD_NAMES_MEMBER(trim)
NBD_NAMES_MEMBER(write_zeroes)
NBD_NAMES_MEMBER(cache)
NBD_NAMES_MEMBER(lend)
NBD_NAMES_MEMBER(lend_file)
NBD_NAMES_MEMBER(lend_for_write)
NBD_NAMES_MEMBER(lent_written)
NBD_NAMES_MEMBER(extents)
NBD_NAMES_MEMBER(meta_contexts)
NBD_NAMES_MEMBER(context_extents)
NBD_NAMES_MEMBER(resize)
NBD_NAMES_MEMBER(block_sizes)
NBD_NAMES_MEMBER(open)
NBD_NAMES_MEMBER(concurrency)
NBD_NAMES_MEMBER(blocks)
NBD_NAMES_MEMBER(multi_conn)
NBD_NAMES_MEMBER(rotational)
NBD_NAMES_MEMBER(fast_zero)
NBD_NAMES_MEMBER(fills_reads)

template <class T, T>
struct constant {};

/// All members are awaited, or none is.
template <class B>
consteval bool one_kind()
{
    using bytes = std::span<std::byte>;
    using const_bytes = std::span<const std::byte>;
    constexpr bool waits = asynchronous<B>;
    bool same = true;
    if constexpr (has_read<B>)
        same &= waits == awaited_outcome<decltype(std::declval<B&>().read(0, bytes{}))>;
    if constexpr (has_plain_write<B>)
        same &= waits == awaited_outcome<decltype(std::declval<B&>().write(0, const_bytes{}))>;
    if constexpr (has_fua_write<B>)
        same &= waits
            == awaited_outcome<decltype(std::declval<B&>().write(0, const_bytes{}, write_flags{}))>;
    if constexpr (has_flush<B>)
        same &= waits == awaited_outcome<decltype(std::declval<B&>().flush())>;
    if constexpr (has_trim<B>)
        same &= waits == awaited_outcome<decltype(std::declval<B&>().trim(0, 0))>;
    if constexpr (has_write_zeroes<B>)
        same &=
            waits == awaited_outcome<decltype(std::declval<B&>().write_zeroes(0, 0, zero_flags{}))>;
    if constexpr (has_cache<B>)
        same &= waits == awaited_outcome<decltype(std::declval<B&>().cache(0, 0))>;
    if constexpr (has_extents<B>)
        same &= waits
            == awaited_outcome<decltype(std::declval<B&>().extents(0, 0,
                                                                   std::declval<extent_list&>()))>;
    if constexpr (has_meta_contexts<B>)
        same &= waits
            == awaited_outcome<decltype(std::declval<B&>().context_extents(
                0, 0, 0, std::declval<extent_list&>()))>;
    return same;
}

/// What is awaited can run where a policy's clients live: its executor is theirs, or can be made of theirs.
template <class B, class Executor>
consteval bool runs_on()
{
    if constexpr (requires(B& b, std::span<std::byte> to) {
                      { b.read(0, to) } -> awaited_outcome;
                  })
        return std::convertible_to<
            Executor, typename decltype(std::declval<B&>().read(0, {}))::executor_type>;
    else if constexpr (asynchronous<B>)
        return std::convertible_to<Executor,
                                   typename decltype(std::declval<B&>().handle(
                                       std::declval<call&>()))::executor_type>;
    else
        return true;
}

/// The same for all that is awaited of a backend and of what its `open` returns.
template <class B, class Executor>
consteval bool all_runs_on()
{
    bool fits = runs_on<served_t<B>, Executor>();
    if constexpr (awaits_open<B>)
        fits &= std::convertible_to<Executor,
                                    typename decltype(std::declval<B&>().open(
                                        std::declval<const client&>()))::executor_type>;
    if constexpr (awaits_resize<served_t<B>>)
        fits &= std::convertible_to<
            Executor, typename decltype(std::declval<served_t<B>&>().resize(0))::executor_type>;
    return fits;
}

/// A policy whose clients block can await `open` only where they have a context for the other members.
template <class B, class Policy>
consteval bool can_await_open()
{
    return !awaits_open<B> || !Policy::blocking || asynchronous<served_t<B>>;
}

/// True, or a compile error that says in one sentence what was expected.
template <class B>
consteval bool served_is_sound()
{
    static_assert(has_size<B> || names_size<B>(),
                  "nbd: a backend needs `std::uint64_t size() const`, its size in bytes");
    static_assert(has_size<B> || !names_size<B>(),
                  "nbd: this backend's size has the wrong shape; expected "
                  "`std::uint64_t size() const`");
    static_assert(has_read<B> || names_read<B>() || names_handle<B>(),
                  "nbd: a backend needs `std::error_code read(std::uint64_t offset, "
                  "std::span<std::byte> to)`, or the same returning void, nbd::failure or "
                  "boost::asio::awaitable");
    static_assert(has_read<B> || !names_read<B>(),
                  "nbd: this backend's read has the wrong shape; expected `std::error_code "
                  "read(std::uint64_t offset, std::span<std::byte> to)`, or the same returning "
                  "void, nbd::failure or boost::asio::awaitable");
    static_assert(
        has_handle<B> || !names_handle<B>(),
        "nbd: this backend's handle has the wrong shape; expected `void handle(nbd::call&)`");
    static_assert(has_write<B> || !names_write<B>(),
                  "nbd: this backend's write has the wrong shape; expected `std::error_code "
                  "write(std::uint64_t offset, std::span<const std::byte> from)`, with a third "
                  "parameter `nbd::write_flags` for native FUA, or the same returning void, "
                  "nbd::failure or boost::asio::awaitable");
    static_assert(has_flush<B> || !names_flush<B>(),
                  "nbd: this backend's flush has the wrong shape; expected `std::error_code "
                  "flush()`, or the same returning void, nbd::failure or boost::asio::awaitable");
    static_assert(has_trim<B> || !names_trim<B>(),
                  "nbd: this backend's trim has the wrong shape; expected `std::error_code "
                  "trim(std::uint64_t offset, std::uint64_t length)`, or the same returning void, "
                  "nbd::failure or boost::asio::awaitable");
    static_assert(has_write_zeroes<B> || !names_write_zeroes<B>(),
                  "nbd: this backend's write_zeroes has the wrong shape; expected `std::error_code "
                  "write_zeroes(std::uint64_t offset, std::uint64_t length, nbd::zero_flags)`, or "
                  "the same returning void, nbd::failure or boost::asio::awaitable");
    static_assert(has_cache<B> || !names_cache<B>(),
                  "nbd: this backend's cache has the wrong shape; expected `std::error_code "
                  "cache(std::uint64_t offset, std::uint64_t length)`, or the same returning void, "
                  "nbd::failure or boost::asio::awaitable");
    static_assert(has_lend<B> || !names_lend<B>(),
                  "nbd: this backend's lend has the wrong shape; expected `std::span<const "
                  "std::byte> lend(std::uint64_t offset, std::size_t length) noexcept`");
    static_assert(has_lend_file<B> || !names_lend_file<B>(),
                  "nbd: this backend's lend_file has the wrong shape; expected `nbd::file_range "
                  "lend_file(std::uint64_t offset, std::size_t length) noexcept`");
    static_assert(has_lend_for_write<B> || !names_lend_for_write<B>(),
                  "nbd: this backend's lend_for_write has the wrong shape; expected "
                  "`std::span<std::byte> lend_for_write(std::uint64_t offset, std::size_t length) "
                  "noexcept`");
    static_assert(has_lent_written<B> || !names_lent_written<B>(),
                  "nbd: this backend's lent_written has the wrong shape; expected `void "
                  "lent_written(std::uint64_t offset, std::size_t length) noexcept`");
    static_assert(has_extents<B> || !names_extents<B>(),
                  "nbd: this backend's extents has the wrong shape; expected `std::error_code "
                  "extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)`, or "
                  "the same returning void, nbd::failure or boost::asio::awaitable");
    static_assert(has_meta_contexts<B> || !(names_meta_contexts<B>() || names_context_extents<B>()),
                  "nbd: this backend's own contexts have the wrong shape; expected "
                  "`std::span<const nbd::meta_context> meta_contexts() const` and `std::error_code "
                  "context_extents(std::size_t index, std::uint64_t offset, std::uint64_t length, "
                  "nbd::extent_list& to)`");
    static_assert(has_resize<B> || !names_resize<B>(),
                  "nbd: this backend's resize has the wrong shape; expected `std::error_code "
                  "resize(std::uint64_t size)`, or the same returning void, nbd::failure or "
                  "boost::asio::awaitable");
    static_assert(
        !awaits_resize<B> || asynchronous<B>,
        "nbd: resize can be awaited where the other members of a backend are awaited too");
    static_assert(has_block_sizes<B> || !names_block_sizes<B>(),
                  "nbd: this backend's block_sizes has the wrong shape; expected "
                  "`nbd::block_sizes block_sizes() const`");
    static_assert(
        !has_resize<B> || concurrency_of<B>() != concurrency::serialize_client,
        "nbd: a backend can be resized by one client while another is served, so one with resize "
        "promises `concurrency::parallel` or `concurrency::serialize_all`");
    static_assert(
        !(asynchronous<B> && has_resize<B>) || concurrency_of<B>() == concurrency::parallel,
        "nbd: a backend whose members are awaited can be resized at any time, so it "
        "promises `static constexpr nbd::concurrency concurrency = "
        "nbd::concurrency::parallel`");
    static_assert(one_kind<B>(),
                  "nbd: either all members of a backend return boost::asio::awaitable, or none "
                  "does; resize may be either where they do");
    static_assert(has_write<B> || has_handle<B>
                      || !(has_trim<B> || has_write_zeroes<B> || has_lend_for_write<B>),
                  "nbd: a backend that has trim, write_zeroes or lend_for_write needs write too");
    static_assert(concurrency_of<B>() == concurrency::parallel
                      || !(has_lend<B> || has_lend_file<B> || has_lend_for_write<B>),
                  "nbd: lent memory is used outside any lock, so a backend that lends promises "
                  "`static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel`");
    static_assert(
        !names_concurrency<B>() || requires {
            typename constant<nbd::concurrency, B::concurrency>;
        }, "nbd: a backend promises `static constexpr nbd::concurrency concurrency = ...`");
    static_assert(
        (!names_multi_conn<B>() || requires { typename constant<bool, B::multi_conn>; })
            && (!names_blocks<B>() || requires { typename constant<bool, B::blocks>; })
            && (!names_rotational<B>() || requires { typename constant<bool, B::rotational>; })
            && (!names_fast_zero<B>() || requires { typename constant<bool, B::fast_zero>; })
            && (!names_fills_reads<B>() || requires { typename constant<bool, B::fills_reads>; }),
        "nbd: blocks, multi_conn, rotational, fast_zero and fills_reads are promised as "
        "`static constexpr bool`");
    return readable_backend<B>;
}

template <class B>
consteval bool backend_is_sound()
{
    static_assert(has_open<B> || !names_open<B>(),
                  "nbd: this backend's open has the wrong shape; expected `state open(const "
                  "nbd::client&)`, where state is a backend that is returned by value, or "
                  "boost::asio::awaitable of one");
    static_assert(!awaits_open<B> || asynchronous<served_t<B>>
                      || concurrency_of<served_t<B>>() != concurrency::serialize_all,
                  "nbd: an `open` that is awaited cannot hold the lock that serialises calls which "
                  "are not awaited, so what it returns promises `static constexpr nbd::concurrency "
                  "concurrency = nbd::concurrency::serialize_client` or `parallel`");
    return served_is_sound<served_t<B>>();
}

}  // namespace nbd::diagnosis
