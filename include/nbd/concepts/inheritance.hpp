// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

/// The rule that no inherited member of a backend goes round a member that a derived class
/// declares.
///
/// A class that derives from a backend and declares `read` again still has `lend`, `lend_file` and
/// `extents` of its base: the server would send data that the new `read` has not seen. The type of
/// a pointer to a member names the class that declares the member. A member is not checked if it is
/// static or a template, or has several overloads of which none has the usual parameters. A class
/// may inherit such members from a private base and name them in using-declarations.
namespace nbd::diagnosis {

/// Finds the class that declares a member function, from the address of the member: by its
/// parameters if it has several overloads.
template <class... Parameters>
struct member_taking {
    template <class C, class F>
        requires std::is_function_v<F>
    static std::type_identity<C> find(F C::*, int);
    template <class C, class R, bool N>
    static std::type_identity<C> find(R (C::*)(Parameters...) noexcept(N), long);
    template <class C, class R, bool N>
    static std::type_identity<C> find(R (C::*)(Parameters...) const noexcept(N), ...);
};

using u64 = std::uint64_t;
using bytes_to = std::span<std::byte>;
using bytes_from = std::span<const std::byte>;

// The class that declares each member. Substitution fails if there is none.
template <class B>
using in_size = decltype(member_taking<>::find(&B::size, 0));
template <class B>
using in_refresh_size = decltype(member_taking<>::find(&B::refresh_size, 0));
template <class B>
using in_resize = decltype(member_taking<u64>::find(&B::resize, 0));
template <class B>
using in_read = decltype(member_taking<u64, bytes_to>::find(&B::read, 0));
template <class B>
using in_async_read = decltype(member_taking<u64, bytes_to, completion>::find(&B::async_read, 0));
template <class B>
using in_handle = decltype(member_taking<call&>::find(&B::handle, 0));
template <class B>
using in_lend = decltype(member_taking<u64, std::size_t>::find(&B::lend, 0));
template <class B>
using in_lend_file = decltype(member_taking<u64, std::size_t>::find(&B::lend_file, 0));
template <class B>
using in_read_now = decltype(member_taking<u64, bytes_to>::find(&B::read_now, 0));
template <class B>
using in_extents = decltype(member_taking<u64, u64, extent_list&>::find(&B::extents, 0));
template <class B>
using in_async_extents =
    decltype(member_taking<u64, u64, extent_list&, completion>::find(&B::async_extents, 0));
template <class B>
using in_plain_write = decltype(member_taking<u64, bytes_from>::find(&B::write, 0));
template <class B>
using in_fua_write = decltype(member_taking<u64, bytes_from, write_flags>::find(&B::write, 0));
template <class B>
using in_async_write =
    decltype(member_taking<u64, bytes_from, completion>::find(&B::async_write, 0));
template <class B>
using in_async_fua_write =
    decltype(member_taking<u64, bytes_from, write_flags, completion>::find(&B::async_write, 0));
template <class B>
using in_lend_for_write = decltype(member_taking<u64, std::size_t>::find(&B::lend_for_write, 0));
template <class B>
using in_trim = decltype(member_taking<u64, u64>::find(&B::trim, 0));
template <class B>
using in_async_trim = decltype(member_taking<u64, u64, completion>::find(&B::async_trim, 0));
template <class B>
using in_write_zeroes = decltype(member_taking<u64, u64, zero_flags>::find(&B::write_zeroes, 0));
template <class B>
using in_async_write_zeroes =
    decltype(member_taking<u64, u64, zero_flags, completion>::find(&B::async_write_zeroes, 0));

/// Whether Member is declared in a public base of the class that declares Above.
template <class B, template <class> class Above, template <class> class Member>
concept below = requires {
    typename Above<B>::type;
    typename Member<B>::type;
    requires !std::same_as<typename Above<B>::type, typename Member<B>::type>;
    requires std::derived_from<typename Above<B>::type, typename Member<B>::type>;
};
template <class B, template <class> class Above, template <class> class... Members>
concept any_below = (below<B, Above, Members> || ...);

template <class B>
concept inherits_past_read = any_below<B, in_read, in_lend, in_lend_file, in_read_now, in_extents>
    || any_below<B, in_async_read, in_lend, in_lend_file, in_async_extents>
    || any_below<B, in_handle, in_lend, in_lend_file, in_read_now, in_lend_for_write>;
template <class B>
concept inherits_past_write =
    any_below<B, in_plain_write, in_lend_for_write, in_write_zeroes, in_trim>
    || any_below<B, in_async_write, in_lend_for_write, in_async_write_zeroes, in_async_trim>
    || (has_fua_write<B>
        && (any_below<B, in_plain_write, in_fua_write>
            || any_below<B, in_async_write, in_async_fua_write>
            || any_below<B, in_fua_write, in_lend_for_write, in_write_zeroes, in_trim>
            || any_below<B, in_async_fua_write, in_lend_for_write, in_async_write_zeroes,
                         in_async_trim>));
template <class B>
concept inherits_past_size = any_below<B, in_size, in_refresh_size, in_resize>;

template <class B, bool Explain = false>
consteval bool bases_are_sound()
{
    if constexpr (inherits_past_read<B>) {
        static_assert(!Explain,
                      "nbd: this backend declares read and inherits lend, lend_file, read_now or "
                      "extents, which "
                      "would serve data past its read; hold an object of the base class in place "
                      "of deriving from "
                      "it, or declare those members beside read too");
        return false;
    } else if constexpr (inherits_past_write<B>) {
        static_assert(
            !Explain,
            "nbd: this backend declares write and inherits lend_for_write, write_zeroes, trim or a "
            "write with nbd::write_flags, which would change data past its write; hold an object "
            "of the base class in place of deriving from it, or declare those members beside "
            "write too");
        return false;
    } else if constexpr (inherits_past_size<B>) {
        static_assert(
            !Explain,
            "nbd: this backend declares size and inherits resize or refresh_size, which would "
            "replace its size; hold an object of the base class in place of deriving from it, or "
            "declare those members beside size too");
        return false;
    } else {
        return true;
    }
}

}  // namespace nbd::diagnosis
