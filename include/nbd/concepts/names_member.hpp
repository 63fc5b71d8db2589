// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

/// Defines `names_<member><T>()`: whether class T has a member of that name, of any shape or
/// access. It distinguishes an optional member of the wrong shape from one that is absent.
///
/// `all` is a class with an int of each such name. In a class that inherits from both T and `all`,
/// a name that T has is ambiguous, so its address cannot be taken. A final class cannot be
/// inherited from; for it, the address of the member itself is tried, which fails if the member is
/// overloaded or private.
#define NBD_NAMES_MEMBER(all, member)                                                              \
    template <class T>                                                                             \
    consteval bool names_##member()                                                                \
    {                                                                                              \
        if constexpr (!std::is_class_v<T>)                                                         \
            return false;                                                                          \
        else if constexpr (std::is_final_v<T>)                                                     \
            return requires { &T::member; };                                                       \
        else                                                                                       \
            return !requires { &::nbd::inherits_both<T, all>::member; };                           \
    }

namespace nbd {

template <class T, class All>
struct inherits_both : T, All {};

}  // namespace nbd
