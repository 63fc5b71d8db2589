// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/names_member.hpp>

/// Compile errors of one sentence for a backend that lacks a required member, has a member of the
/// wrong shape, or mixes kinds.
namespace nbd::diagnosis {

struct every_member {
    int size, read, handle, write, flush, trim, write_zeroes, cache, lend, lend_file,
        lend_for_write, lent_written, extents, meta_contexts, context_extents, resize, block_sizes,
        open, concurrency, blocks, cancellable, multi_conn, rotational, fast_zero, fills_reads,
        async_read, async_write, async_flush, async_trim, async_write_zeroes, async_cache,
        async_extents, async_context_extents;
};
NBD_NAMES_MEMBER(every_member, size)
NBD_NAMES_MEMBER(every_member, read)
NBD_NAMES_MEMBER(every_member, handle)
NBD_NAMES_MEMBER(every_member, write)
NBD_NAMES_MEMBER(every_member, flush)
NBD_NAMES_MEMBER(every_member, trim)
NBD_NAMES_MEMBER(every_member, write_zeroes)
NBD_NAMES_MEMBER(every_member, cache)
NBD_NAMES_MEMBER(every_member, lend)
NBD_NAMES_MEMBER(every_member, lend_file)
NBD_NAMES_MEMBER(every_member, lend_for_write)
NBD_NAMES_MEMBER(every_member, lent_written)
NBD_NAMES_MEMBER(every_member, extents)
NBD_NAMES_MEMBER(every_member, meta_contexts)
NBD_NAMES_MEMBER(every_member, context_extents)
NBD_NAMES_MEMBER(every_member, resize)
NBD_NAMES_MEMBER(every_member, block_sizes)
NBD_NAMES_MEMBER(every_member, open)
NBD_NAMES_MEMBER(every_member, concurrency)
NBD_NAMES_MEMBER(every_member, blocks)
NBD_NAMES_MEMBER(every_member, cancellable)
NBD_NAMES_MEMBER(every_member, multi_conn)
NBD_NAMES_MEMBER(every_member, rotational)
NBD_NAMES_MEMBER(every_member, fast_zero)
NBD_NAMES_MEMBER(every_member, fills_reads)
NBD_NAMES_MEMBER(every_member, async_read)
NBD_NAMES_MEMBER(every_member, async_write)
NBD_NAMES_MEMBER(every_member, async_flush)
NBD_NAMES_MEMBER(every_member, async_trim)
NBD_NAMES_MEMBER(every_member, async_write_zeroes)
NBD_NAMES_MEMBER(every_member, async_cache)
NBD_NAMES_MEMBER(every_member, async_extents)
NBD_NAMES_MEMBER(every_member, async_context_extents)

template <class T, T>
struct constant {};

// What each member returns, for the members that have a synchronous and an awaited form.
template <class B>
using read_of = decltype(std::declval<B&>().read(0, std::span<std::byte>{}));
template <class B>
using plain_write_of = decltype(std::declval<B&>().write(0, std::span<const std::byte>{}));
template <class B>
using fua_write_of =
    decltype(std::declval<B&>().write(0, std::span<const std::byte>{}, write_flags{}));
template <class B>
using flush_of = decltype(std::declval<B&>().flush());
template <class B>
using trim_of = decltype(std::declval<B&>().trim(0, 0));
template <class B>
using write_zeroes_of = decltype(std::declval<B&>().write_zeroes(0, 0, zero_flags{}));
template <class B>
using cache_of = decltype(std::declval<B&>().cache(0, 0));
template <class B>
using extents_of = decltype(std::declval<B&>().extents(0, 0, std::declval<extent_list&>()));
template <class B>
using context_extents_of =
    decltype(std::declval<B&>().context_extents(0, 0, 0, std::declval<extent_list&>()));
template <class B>
using handle_of = decltype(std::declval<B&>().handle(std::declval<call&>()));

/// Whether a member is absent, or of the kind of the others.
template <class B, template <class> class Result>
consteval bool fits_kind()
{
    if constexpr (requires { typename Result<B>; })
        return !calls_back<B> && asynchronous<B> == awaited_outcome<Result<B>>;
    else
        return true;
}

/// Whether an awaited backend can run on the executor of a policy's clients.
template <class B, class Executor>
consteval bool runs_on()
{
    if constexpr (!asynchronous<B> || calls_back<B>)
        return true;
    else if constexpr (requires { typename read_of<B>; })
        return std::convertible_to<Executor, typename read_of<B>::executor_type>;
    else
        return std::convertible_to<Executor, typename handle_of<B>::executor_type>;
}

/// As runs_on, for everything that is awaited: the members, `open` and `resize`.
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

/// Whether `open` can be awaited with a policy. With a policy whose clients block, only if the
/// other members are asynchronous, because only then a client's thread has a context to run.
template <class B, class Policy>
consteval bool can_await_open()
{
    return !awaits_open<B> || !Policy::blocking || asynchronous<served_t<B>>;
}

/// Checks the members that only a backend with callbacks has.
template <class B>
consteval void check_callbacks()
{
    if constexpr (!has_write<B>)
        static_assert(!names_async_write<B>(),
                      "nbd: this backend's async_write has the wrong shape; expected `void "
                      "async_write(std::uint64_t offset, std::span<const std::byte> from, "
                      "nbd::completion done)`, with an `nbd::write_flags` before the last "
                      "parameter for native FUA");
    if constexpr (!has_flush<B>)
        static_assert(!names_async_flush<B>(),
                      "nbd: this backend's async_flush has the wrong shape; expected `void "
                      "async_flush(nbd::completion done)`");
    if constexpr (!has_trim<B>)
        static_assert(!names_async_trim<B>(),
                      "nbd: this backend's async_trim has the wrong shape; expected `void "
                      "async_trim(std::uint64_t offset, std::uint64_t length, nbd::completion "
                      "done)`");
    if constexpr (!has_write_zeroes<B>)
        static_assert(!names_async_write_zeroes<B>(),
                      "nbd: this backend's async_write_zeroes has the wrong shape; expected "
                      "`void async_write_zeroes(std::uint64_t offset, std::uint64_t length, "
                      "nbd::zero_flags flags, nbd::completion done)`");
    if constexpr (!has_cache<B>)
        static_assert(!names_async_cache<B>(),
                      "nbd: this backend's async_cache has the wrong shape; expected `void "
                      "async_cache(std::uint64_t offset, std::uint64_t length, nbd::completion"
                      " done)`");
    if constexpr (!has_extents<B>)
        static_assert(!names_async_extents<B>(),
                      "nbd: this backend's async_extents has the wrong shape; expected `void "
                      "async_extents(std::uint64_t offset, std::uint64_t length, "
                      "nbd::extent_list& to, nbd::completion done)`");
    if constexpr (!has_meta_contexts<B>)
        static_assert(!names_async_context_extents<B>(),
                      "nbd: this backend's async_context_extents has the wrong shape; expected"
                      " `void async_context_extents(std::size_t index, std::uint64_t offset, "
                      "std::uint64_t length, nbd::extent_list& to, nbd::completion done)`, "
                      "with `meta_contexts`");
}

/// True, or a compile error that states in one sentence what was expected.
template <class B>
consteval bool served_is_sound()
{
    static_assert(has_size<B> || names_size<B>(),
                  "nbd: a backend needs `std::uint64_t size() const`, its size in bytes");
    if constexpr (!has_size<B>)
        static_assert(!names_size<B>(),
                      "nbd: this backend's size has the wrong shape; expected `std::uint64_t "
                      "size() const`");
    static_assert(readable_backend<B> || !has_size<B> || names_read<B>() || names_handle<B>()
                      || names_async_read<B>(),
                  "nbd: a backend needs `std::error_code read(std::uint64_t offset, "
                  "std::span<std::byte> to)`, or the same returning void, nbd::failure or "
                  "boost::asio::awaitable; or async_read or handle, see "
                  "nbd/concepts/backend.hpp");
    if constexpr (!has_read<B>)
        static_assert(!names_read<B>(),
                      "nbd: this backend's read has the wrong shape; expected `std::error_code"
                      " read(std::uint64_t offset, std::span<std::byte> to)`, or the same "
                      "returning void, nbd::failure or boost::asio::awaitable");
    if constexpr (!has_async_read<B>)
        static_assert(!names_async_read<B>(),
                      "nbd: this backend's async_read has the wrong shape; expected `void "
                      "async_read(std::uint64_t offset, std::span<std::byte> to, "
                      "nbd::completion done)`");
    if constexpr (!has_handle<B>)
        static_assert(!names_handle<B>(),
                      "nbd: this backend's handle has the wrong shape; expected `void "
                      "handle(nbd::call&)`, or the same returning std::error_code, nbd::failure "
                      "or boost::asio::awaitable");
    if constexpr (!has_write<B>)
        static_assert(!names_write<B>(),
                      "nbd: this backend's write has the wrong shape; expected "
                      "`std::error_code write(std::uint64_t offset, std::span<const std::byte>"
                      " from)`, with a third parameter `nbd::write_flags` for native FUA, or "
                      "the same returning void, nbd::failure or boost::asio::awaitable");
    if constexpr (!has_flush<B>)
        static_assert(!names_flush<B>(),
                      "nbd: this backend's flush has the wrong shape; expected "
                      "`std::error_code flush()`, or the same returning void, nbd::failure or "
                      "boost::asio::awaitable");
    if constexpr (!has_trim<B>)
        static_assert(!names_trim<B>(),
                      "nbd: this backend's trim has the wrong shape; expected `std::error_code"
                      " trim(std::uint64_t offset, std::uint64_t length)`, or the same "
                      "returning void, nbd::failure or boost::asio::awaitable");
    if constexpr (!has_write_zeroes<B>)
        static_assert(!names_write_zeroes<B>(),
                      "nbd: this backend's write_zeroes has the wrong shape; expected "
                      "`std::error_code write_zeroes(std::uint64_t offset, std::uint64_t "
                      "length, nbd::zero_flags)`, or the same returning void, nbd::failure or "
                      "boost::asio::awaitable");
    if constexpr (!has_cache<B>)
        static_assert(!names_cache<B>(),
                      "nbd: this backend's cache has the wrong shape; expected "
                      "`std::error_code cache(std::uint64_t offset, std::uint64_t length)`, or"
                      " the same returning void, nbd::failure or boost::asio::awaitable");
    if constexpr (!has_extents<B>)
        static_assert(!names_extents<B>(),
                      "nbd: this backend's extents has the wrong shape; expected "
                      "`std::error_code extents(std::uint64_t offset, std::uint64_t length, "
                      "nbd::extent_list& to)`, or the same returning void, nbd::failure or "
                      "boost::asio::awaitable");
    if constexpr (!has_lend<B>)
        static_assert(!names_lend<B>(),
                      "nbd: this backend's lend has the wrong shape; expected `std::span<const"
                      " std::byte> lend(std::uint64_t offset, std::size_t length) noexcept`");
    if constexpr (!has_lend_file<B>)
        static_assert(!names_lend_file<B>(),
                      "nbd: this backend's lend_file has the wrong shape; expected "
                      "`nbd::file_range lend_file(std::uint64_t offset, std::size_t length) "
                      "noexcept`");
    if constexpr (!has_lend_for_write<B>)
        static_assert(!names_lend_for_write<B>(),
                      "nbd: this backend's lend_for_write has the wrong shape; expected "
                      "`std::span<std::byte> lend_for_write(std::uint64_t offset, std::size_t "
                      "length) noexcept`");
    if constexpr (!has_lent_written<B>)
        static_assert(!names_lent_written<B>(),
                      "nbd: this backend's lent_written has the wrong shape; expected `void "
                      "lent_written(std::uint64_t offset, std::size_t length) noexcept`");
    if constexpr (!has_meta_contexts<B>)
        static_assert(!names_meta_contexts<B>() && !names_context_extents<B>(),
                      "nbd: this backend's own contexts have the wrong shape; expected "
                      "`std::span<const nbd::meta_context> meta_contexts() const`, of contexts"
                      " that the backend keeps, and `std::error_code "
                      "context_extents(std::size_t index, std::uint64_t offset, std::uint64_t "
                      "length, nbd::extent_list& to)`");
    if constexpr (!has_resize<B>)
        static_assert(!names_resize<B>(),
                      "nbd: this backend's resize has the wrong shape; expected `std::error_code "
                      "resize(std::uint64_t size)`, or the same returning void, nbd::failure or "
                      "boost::asio::awaitable");
    static_assert(
        !awaits_resize<B> || (asynchronous<B> && !calls_back<B>),
        "nbd: a backend's resize can be awaited only if its other members are awaited too");
    if constexpr (!has_block_sizes<B>)
        static_assert(!names_block_sizes<B>(),
                      "nbd: this backend's block_sizes has the wrong shape; expected "
                      "`nbd::block_sizes block_sizes() const`");
    if constexpr (calls_back<B>)
        check_callbacks<B>();
    static_assert(
        fits_kind<B, read_of>() && fits_kind<B, plain_write_of>() && fits_kind<B, fua_write_of>()
            && fits_kind<B, flush_of>() && fits_kind<B, trim_of>()
            && fits_kind<B, write_zeroes_of>() && fits_kind<B, cache_of>()
            && fits_kind<B, extents_of>() && fits_kind<B, context_extents_of>()
            && !(calls_back<B> && has_handle<B>)&&(
                names_async_read<B>()
                || !(names_async_write<B>() || names_async_flush<B>() || names_async_trim<B>()
                     || names_async_write_zeroes<B>() || names_async_cache<B>()
                     || names_async_extents<B>() || names_async_context_extents<B>())),
        "nbd: either all members of a backend return boost::asio::awaitable, or none does; "
        "with callbacks all are called async_read, async_write and so on, and take an "
        "nbd::completion; resize may be synchronous in each");
    static_assert(
        !has_resize<B> || concurrency_of<B>() != concurrency::serialize_client,
        "nbd: a backend can be resized by one client while another is served, so one with "
        "resize must promise `concurrency::parallel` or `concurrency::serialize_all`");
    static_assert(
        !(asynchronous<B> && has_resize<B>) || concurrency_of<B>() == concurrency::parallel,
        "nbd: a backend whose members are awaited can be resized at any time, so it must promise "
        "`static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel`; the same "
        "holds for a backend with callbacks");
    static_assert(has_write<B> || has_handle<B>
                      || !(has_trim<B> || has_write_zeroes<B> || has_lend_for_write<B>),
                  "nbd: a backend that has trim, write_zeroes or lend_for_write needs write too");
    static_assert(concurrency_of<B>() == concurrency::parallel
                      || !(has_lend<B> || has_lend_file<B> || has_lend_for_write<B>),
                  "nbd: lent memory is used outside any lock, so a backend that lends must promise"
                  " `static constexpr nbd::concurrency concurrency = "
                  "nbd::concurrency::parallel`");
    static_assert(
        !names_concurrency<B>() || requires {
            typename constant<nbd::concurrency, B::concurrency>;
        }, "nbd: a backend promises `static constexpr nbd::concurrency concurrency = ...`");
    static_assert(
        (!names_multi_conn<B>() || requires { typename constant<bool, B::multi_conn>; })
            && (!names_blocks<B>() || requires { typename constant<bool, B::blocks>; })
            && (!names_cancellable<B>() || requires { typename constant<bool, B::cancellable>; })
            && (!names_rotational<B>() || requires { typename constant<bool, B::rotational>; })
            && (!names_fast_zero<B>() || requires { typename constant<bool, B::fast_zero>; })
            && (!names_fills_reads<B>() || requires { typename constant<bool, B::fills_reads>; }),
        "nbd: blocks, cancellable, multi_conn, rotational, fast_zero and fills_reads are promised "
        "as `static constexpr bool`");
    return readable_backend<B>;
}

template <class B>
consteval bool backend_is_sound()
{
    static_assert(has_open<B> || !names_open<B>(),
                  "nbd: this backend's open has the wrong shape; expected `state open(const "
                  "nbd::client&)`, where state is a backend that is returned by value, or "
                  "boost::asio::awaitable of one");
    static_assert(
        !awaits_open<B> || asynchronous<served_t<B>>
            || concurrency_of<served_t<B>>() != concurrency::serialize_all,
        "nbd: an `open` that is awaited cannot hold the lock that serialises calls which "
        "are not awaited, so what it returns must promise `static constexpr nbd::concurrency "
        "concurrency = nbd::concurrency::serialize_client` or `parallel`");
    return served_is_sound<served_t<B>>();
}

}  // namespace nbd::diagnosis
