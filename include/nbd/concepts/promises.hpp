// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/backend_types.hpp>

#include <type_traits>

/// Promises of a backend: `static constexpr` members that state what the compiler cannot detect.
/// All are optional.
///
/// | member | type | meaning | default |
/// |---|---|---|---|
/// | concurrency | nbd::concurrency | how many calls may run at a time | serialize_all |
/// | blocks | bool | calls wait for a device: strand_pool uses other threads | false |
/// | cancellable | bool | awaited calls may be cancelled; see below | false |
/// | multi_conn | bool | a flush covers completed writes on all connections | false |
/// | rotational | bool | seeks are expensive; a hint for clients | false |
/// | fast_zero | bool | write_zeroes is fast, or fails at once where `fast` is set | false |
/// | fills_reads | bool | a successful read writes every byte of its span | false |
///
/// Without `fills_reads`, the server zeroes the span before the call.
///
/// `cancellable` is for awaited members. Without it, each call runs to its end, also when its
/// client has left: a backend that sends a message on a shared connection is not interrupted in the
/// middle. With it, a call gets asio::cancellation_type::terminal, on the client's executor, when
/// the client has left or the server closes the connection. This includes `open`, where the type
/// that has `open` makes the promise, and a client's `resize`.
namespace nbd {

/// Can be named only with a value that is a constant of type T, without a conversion that narrows.
template <class T, T>
struct static_constant {};
/// Whether a pointer to a member is one to a static member. Naming the value of another member in
/// a template argument would be a compile error with gcc.
template <class Pointer>
concept is_static = !std::is_member_pointer_v<Pointer>;

template <class B>
concept has_constant_concurrency = requires { requires is_static<decltype(&B::concurrency)>; }
    && requires { typename static_constant<nbd::concurrency, B::concurrency>; };

template <class B>
[[nodiscard]] consteval nbd::concurrency concurrency_of() noexcept
{
    if constexpr (has_constant_concurrency<B>)
        return B::concurrency;
    else
        return nbd::concurrency::serialize_all;
}
template <class B>
concept promises_blocks = requires { requires B::blocks; };
template <class B>
concept promises_cancellable = requires { requires B::cancellable; };
template <class B>
concept promises_multi_conn = requires { requires B::multi_conn; };
template <class B>
concept promises_rotational = requires { requires B::rotational; };
template <class B>
concept promises_fast_zero = requires { requires B::fast_zero; };
template <class B>
concept promises_fills_reads = requires { requires B::fills_reads; };

}  // namespace nbd
