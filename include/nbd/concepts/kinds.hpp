// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/member_names.hpp>

#include <cstddef>
#include <span>
#include <utility>

/// The rule that all members of a backend are synchronous, awaited, or with callbacks.
namespace nbd::diagnosis {

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

/// Whether all members are synchronous, or all are awaited, or all take callbacks.
template <class B>
concept is_of_one_kind =
    (fits_kind<B, read_of>()) && (fits_kind<B, plain_write_of>()) && (fits_kind<B, fua_write_of>())
    && (fits_kind<B, flush_of>()) && (fits_kind<B, trim_of>()) && (fits_kind<B, write_zeroes_of>())
    && (fits_kind<B, cache_of>()) && (fits_kind<B, extents_of>())
    && (fits_kind<B, context_extents_of>())
    && !(calls_back<B> && has_handle<B>)&&(
        names_async_read<B>
        || !(names_async_write<B> || names_async_flush<B> || names_async_trim<B>
             || names_async_write_zeroes<B> || names_async_cache<B> || names_async_extents<B>
             || names_async_context_extents<B>));

template <class B, bool Explain = false>
consteval bool kinds_are_sound()
{
    if constexpr (awaits_resize<B> && (!asynchronous<B> || calls_back<B>)) {
        static_assert(
            !Explain,
            "nbd: a backend's resize can be awaited only if its other members are awaited too");
        return false;
    } else if constexpr (calls_back<B>
                         && (names_async_resize<B> || names_async_drain<B>
                             || names_async_open<B>)) {
        static_assert(!Explain,
                      "nbd: a backend with callbacks has `resize`, `drain` and `open` without "
                      "async_ and without an nbd::completion");
        return false;
    } else if constexpr (!is_of_one_kind<B>) {
        static_assert(!Explain,
                      "nbd: either all members of a backend return boost::asio::awaitable, or none "
                      "does; with callbacks all are called async_read, async_write and so on, and "
                      "take an nbd::completion; resize, open and drain may be synchronous in each");
        return false;
    } else if constexpr (!has_write<B> && !has_handle<B>
                         && (has_trim<B> || has_write_zeroes<B> || has_lend_for_write<B>)) {
        static_assert(
            !Explain,
            "nbd: a backend that has trim, write_zeroes or lend_for_write needs write too");
        return false;
    } else {
        return true;
    }
}

}  // namespace nbd::diagnosis
