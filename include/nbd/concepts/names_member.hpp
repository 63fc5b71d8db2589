// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>
#include <type_traits>

/// Defines the concept `names_<member>`: class T has a member of that name, of any shape or access.
/// It distinguishes an optional member of the wrong shape from one that is absent.
///
/// `all` is a class with an int of each such name. In a class that inherits from both T and `all`,
/// a name that T has is ambiguous, so its address cannot be taken. This finds every member, also
/// one whose requires clause is false, which counts as absent. So it is not used for templates, the
/// only classes with such members, nor for final classes, which cannot be inherited from. For them,
/// the address of the member is tried, and calls with up to five arguments. They fail if the member
/// is private, or if several overloads have as many parameters.
#define NBD_NAMES_MEMBER(all, member)                                                              \
    template <class T, class A>                                                                    \
    concept calls_##member =                                                                       \
        requires(T& t) { t.member(); } || requires(T& t, const A a) { t.member(a); }               \
        || requires(T& t, const A a) { t.member(a, a); }                                           \
        || requires(T& t, const A a) { t.member(a, a, a); }                                        \
        || requires(T& t, const A a) { t.member(a, a, a, a); }                                     \
        || requires(T& t, const A a) { t.member(a, a, a, a, a); };                                 \
    template <class T>                                                                             \
    concept names_##member =                                                                       \
        (::nbd::plain_class<T> && !requires { &::nbd::inherits_both<T, all>::member; })            \
        || (::nbd::final_or_template<T> && (requires {                                             \
                &T::member;                                                                        \
            } || calls_##member<T, ::nbd::any_value> || calls_##member<T, ::nbd::any_object>));

namespace nbd {

/// Whether T is a specialization of a template, or a member of one: its name has a `<`. No trait
/// tells this for templates with any parameters.
template <class T>
consteval bool is_of_template()
{
    const std::string_view name = __PRETTY_FUNCTION__;  // "... [with T = ns::layer<disk>]"
    return name.find('<', name.find("T = ")) != name.npos;
}

template <class T, class All>
struct inherits_both : T, All {};

struct no_other_name {
    int nbd_no_member_of_a_program;
};
/// Whether a class can be inherited from. A class whose definition is an error cannot: the compiler
/// has said why, and a sentence of the library about its members would be wrong.
template <class T>
concept inheritable = std::is_class_v<T> && requires { sizeof(T); } && !std::is_final_v<T>
    && requires { &inherits_both<T, no_other_name>::nbd_no_member_of_a_program; };
template <class T>
concept plain_class = inheritable<T> && !is_of_template<T>();
template <class T>
concept final_or_template = std::is_class_v<T> && !plain_class<T>;

/// Arguments that convert to any parameter, for calls that are not evaluated.
struct any_value {
    template <class T>
    operator T() const;
};
struct any_object {
    template <class T>
    operator T&() const;
};

}  // namespace nbd
