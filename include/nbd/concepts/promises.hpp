// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/backend_types.hpp>

/// Promises of a backend: `static constexpr` members that state what the compiler cannot detect.
/// All are optional.
///
/// | member | type | meaning | default |
/// |---|---|---|---|
/// | concurrency | nbd::concurrency | how many calls may run at the same time | serialize_all |
/// | blocks | bool | calls wait for a device: strand_pool makes them on other threads | false |
/// | cancellable | bool | what is awaited may be cancelled when the client has left; see below | false |
/// | multi_conn | bool | a flush on one connection covers completed writes on all connections | false |
/// | rotational | bool | seeks are expensive; a hint for clients | false |
/// | fast_zero | bool | write_zeroes is faster than writing, or fails at once where `fast` is set | false |
/// | fills_reads | bool | a successful read writes every byte of its span; otherwise the server clears the span first | false |
///
/// `cancellable` is for awaited members. Without it each of them runs to its end, also when its client has left: a
/// backend that sends a message on a connection that all clients share is not interrupted in the middle. With it
/// they get asio::cancellation_type::terminal, emitted on the client's executor, when the client has left or the
/// server ends the connection.
namespace nbd {

template <class B>
[[nodiscard]] consteval nbd::concurrency concurrency_of() noexcept
{
    if constexpr (requires { B::concurrency; })
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
