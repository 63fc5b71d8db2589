// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/program_calls.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/permission.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <concepts>
#include <type_traits>
#include <utility>

namespace nbd {

namespace exports {

template <class R>
concept decides =
    std::same_as<std::remove_cvref_t<R>, bool> || std::same_as<std::remove_cvref_t<R>, permission>
    || std::same_as<std::remove_cvref_t<R>, decision>;
/// Whether F(const client&) authorises a client.
template <class F>
concept authorises = requires(F& f, const client& who) { requires decides<decltype(f(who))>; }
    || requires(F& f, const client& who) {
           requires awaited_result<decltype(f(who))>;
           requires decides<typename decltype(f(who))::value_type>;
       };

}  // namespace exports

/// The function of a program that decides what a client may do with an export; see
/// server_options::authorise. Empty by default: every client may use every export.
class authorisation {
public:
    // noexcept: otherwise GCC 12 has an internal error at some default member initialisers.
    authorisation() noexcept = default;
    /// `f`: a function `R(const nbd::client&)`, where R is bool, nbd::permission, nbd::decision, or
    /// boost::asio::awaitable of one. Other arguments: a compile error.
    template <class F>
        requires(!std::same_as<std::remove_cvref_t<F>, authorisation>)
    authorisation(F&& f)
    {
        constexpr bool fits = exports::authorises<std::remove_cvref_t<F>>;
        static_assert(fits,
                      "nbd: `authorise` is called with a const nbd::client&, and returns bool, "
                      "nbd::permission, nbd::decision, or boost::asio::awaitable of one");
        if constexpr (fits)
            call_ = exports::erased<decision, const client&>(std::forward<F>(f));
    }

    [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(call_); }

    // --- for the sessions -----------------------------------------------------------------------

    /// Begins a call; see exports::program_function.
    void operator()(const boost::asio::any_io_executor& on, exports::answer<decision>& to,
                    const client& who) const
    {
        call_(on, to, who);
    }

private:
    exports::program_function<decision, const client&> call_;
};

}  // namespace nbd
