// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/outcome.hpp>
#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/outcome_of.hpp>

#include <concepts>
#include <coroutine>
#include <type_traits>
#include <utility>

/// For a layer: a backend that calls the members of another backend, `Next`. Write it as a
/// template, and give each optional member a requires clause, so that the layer has it only where
/// Next does:
///
///     template <class Next>
///     class counting {
///     public:
///         auto trim(std::uint64_t offset, std::uint64_t length)
///             requires nbd::has_trim<Next>
///         {
///             return nbd::then([&] { return next_.trim(offset, length); },
///                              [this](const nbd::failure& outcome) { count(outcome); });
///         }
///
/// Where nothing follows the call, return what the member returns: `return next_.flush();`.
namespace nbd {

namespace forwarding {

/// What a continuation returns. It takes the failure, or nothing if it is called after success
/// only.
template <class F>
struct result {
    using type = std::invoke_result_t<F&, const failure&>;
};
template <std::invocable F>
struct result<F> {
    using type = std::invoke_result_t<F&>;
};
template <class F>
using result_t = typename result<F>::type;

template <class F>
decltype(auto) call(F& continuation, const failure& outcome)
{
    if constexpr (std::invocable<F&>)
        return continuation();
    else
        return continuation(outcome);
}

template <class F>
[[nodiscard]] failure continue_ready(failure outcome, F& continuation) noexcept
{
    if (std::invocable<F&> && outcome)
        return outcome;
    auto last = outcome_of([&] { return call(continuation, outcome); });
    return std::is_void_v<result_t<F>> && !last ? outcome : last;
}

/// `Awaitable` is boost::asio::awaitable, which this header does not include.
template <template <class, class> class Awaitable, class T, class Executor, class F>
Awaitable<failure, Executor> continue_awaited(Awaitable<T, Executor> first, F continuation)
{
    failure outcome;
    try {
        if constexpr (std::is_void_v<T>)
            co_await std::move(first);
        else
            outcome = co_await std::move(first);
    } catch (...) {
        outcome = current_failure();
    }
    if constexpr (!awaited_outcome<result_t<F>>) {
        co_return continue_ready(std::move(outcome), continuation);
    } else {
        if (std::invocable<F&> && outcome)
            co_return outcome;
        try {
            if constexpr (std::is_void_v<typename result_t<F>::value_type>)
                co_await call(continuation, outcome);
            else
                outcome = co_await call(continuation, outcome);
        } catch (...) {
            outcome = current_failure();
        }
        co_return outcome;
    }
}

}  // namespace forwarding

/// Calls a member of a backend and then `continuation`, in one text for synchronous and awaited
/// members.
/// - `member()`: makes the call. It is called once, before `then` returns, so it may refer to
///   parameters of the caller.
/// - `continuation(const nbd::failure& outcome)`: called after success and failure. What it returns
///   replaces the outcome, unless it returns void.
/// - `continuation()`: called after success only, for a second call: `[this] { return
///   next_.flush(); }`. What it returns is the outcome.
///
/// The continuation returns void, std::error_code, std::errc or nbd::failure. After an awaited
/// member it may also return an awaitable of one of them, with the same executor.
/// *Returns*: nbd::failure, or an awaitable of one if the member is awaited.
/// *Errors*: exceptions of the member and of the continuation become failures. If an awaited member
/// throws before it returns its awaitable, or memory for the coroutine runs out, the exception
/// leaves `then`, and the continuation is not called.
/// *Lifetime*: the continuation is moved into the coroutine of an awaited call. It must not refer
/// to local variables or parameters of its caller; capture these by value.
/// *Cost*: an awaited call has one coroutine more. A call that is not awaited has none.
template <class Member, class Continuation>
[[nodiscard]] auto then(Member&& member, Continuation continuation)
{
    using outcome_type = decltype(member());
    static_assert(
        outcome<outcome_type> && outcome<forwarding::result_t<Continuation>>,
        "nbd: nbd::then needs two functions that return void, std::error_code, std::errc, "
        "nbd::failure or boost::asio::awaitable of one");
    if constexpr (awaited_outcome<outcome_type>) {
        return forwarding::continue_awaited(member(), std::move(continuation));
    } else {
        static_assert(ready_outcome<forwarding::result_t<Continuation>>,
                      "nbd: after a member that is not awaited, the continuation of nbd::then "
                      "cannot be awaited");
        return forwarding::continue_ready(outcome_of(member), continuation);
    }
}

}  // namespace nbd
