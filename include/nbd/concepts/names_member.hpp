// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

/// Defines `names_<member><T>()`: whether a class has any member of that name, of whatever shape, so
/// that a near miss of an optional member is told from its absence. For the concepts of this folder.
/// Inheriting the same name from two sides makes it ambiguous, and that can be seen. A final class
/// cannot be inherited from; there the address tells, unless the member is overloaded.
#define NBD_NAMES_MEMBER(member)                                                                   \
    struct member##_elsewhere {                                                                    \
        int member;                                                                                \
    };                                                                                             \
    template <class T>                                                                             \
    struct member##_twice : T, member##_elsewhere {};                                              \
    template <class T>                                                                             \
    consteval bool names_##member()                                                                \
    {                                                                                              \
        if constexpr (!std::is_class_v<T>)                                                         \
            return false;                                                                          \
        else if constexpr (std::is_final_v<T>)                                                     \
            return requires { &T::member; };                                                       \
        else                                                                                       \
            return !requires { &member##_twice<T>::member; };                                      \
    }
