// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/name_list.hpp>
#include <nbd/settings.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/outcome_of.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <concepts>
#include <exception>
#include <functional>
#include <memory>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

namespace nbd {

/// What a lookup gives: the backend of an export, and the settings for the client that asked.
template <class Backend>
struct found_export {
    std::shared_ptr<Backend> backend{};  ///< null: there is no such export
    export_settings settings{};
};

}  // namespace nbd

/// Calls of the functions of a program that look up and list exports and that authorise clients.
/// They may be awaited. Their types are erased, because the servers that share a set differ in
/// their policies; they are not called for requests.
namespace nbd::exports {

/// The result of a call. *Lifetime*: until `complete` is called.
template <class Result>
struct answer {
    Result result{};
    failure why;
    /// Called once, on the executor of the call. The caller does not use the answer after it.
    void (*complete)(answer&) noexcept = nullptr;
};

/// A function of the program. `on`: where it runs, if it is awaited; empty: on the calling thread,
/// which waits.
template <class Result, class... Args>
using program_function =
    std::function<void(const boost::asio::any_io_executor& on, answer<Result>& to, Args... args)>;

template <class Backend>
using lookup_function = program_function<found_export<Backend>, std::string_view, const client&>;
using list_function = program_function<std::monostate, name_list&>;

template <class R, class Backend>
concept lookup_result = std::convertible_to<R, std::shared_ptr<Backend>>
    || std::convertible_to<R, found_export<Backend>>;
template <class R>
concept awaited_result = requires {
    typename R::value_type;
    typename R::executor_type;
};
/// Whether F(std::string_view name, const client&) is a lookup.
template <class F, class Backend>
concept looks_up = requires(F& f, std::string_view name, const client& who) {
    requires lookup_result<decltype(f(name, who)), Backend>;
} || requires(F& f, std::string_view name, const client& who) {
    requires awaited_result<decltype(f(name, who))>;
    requires lookup_result<typename decltype(f(name, who))::value_type, Backend>;
};
/// Whether F(name_list&) is a listing.
template <class F>
concept lists = requires(F& f, name_list& to) {
    { f(to) } -> std::same_as<void>;
} || requires(F& f, name_list& to) {
    requires awaited_result<decltype(f(to))>;
    requires std::is_void_v<typename decltype(f(to))::value_type>;
};

/// Completes an answer, as the completion handler of a coroutine. Its destructor completes one that
/// was not called.
template <class Result>
class completes {
public:
    explicit completes(answer<Result>& to) noexcept : to_{&to} {}
    completes(completes&& other) noexcept : to_{std::exchange(other.to_, nullptr)} {}
    completes& operator=(completes&&) = delete;
    ~completes() { fail(std::errc::not_enough_memory); }

    void operator()(const std::exception_ptr& thrown) noexcept
    {
        fail(outcome_of([&] {
            if (thrown)
                std::rethrow_exception(thrown);
        }));
    }
    template <class T>
    void operator()(const std::exception_ptr& thrown, T&& value) noexcept
    {
        fail(outcome_of([&] {
            if (thrown)
                std::rethrow_exception(thrown);
            if constexpr (std::convertible_to<T, Result>)
                to_->result = std::forward<T>(value);
            else
                to_->result = Result{std::forward<T>(value), {}};
        }));
    }
    /// `why`: nothing = success. Without an effect after the first time.
    void fail(failure why) noexcept
    {
        if (auto* const to = std::exchange(to_, nullptr)) {
            to->why = std::move(why);
            to->complete(*to);
        }
    }

private:
    answer<Result>* to_;
};

/// Runs a coroutine on the calling thread. *Returns* when it has ended; what it has left on its
/// executor is destroyed.
template <class T, class Executor, class Result>
void run_here(boost::asio::awaitable<T, Executor> call, completes<Result> done)
{
    struct local_answer : answer<Result> {
        boost::asio::io_context* context = nullptr;
    } got;
    got.complete = [](answer<Result>& a) noexcept {
        static_cast<local_answer&>(a).context->stop();
    };
    boost::asio::io_context own{1};
    got.context = &own;
    boost::asio::co_spawn(Executor{own.get_executor()}, std::move(call), completes<Result>{got});
    while (!own.stopped()) {
        try {
            own.run();
        } catch (...) {  // from a handler of the program
        }
    }
    if (got.why)
        done.fail(std::move(got.why));
    else
        done(nullptr, std::move(got.result));
}

/// Runs a coroutine on `on`, or here if that is empty.
template <class T, class Executor, class Result>
void run_on(const boost::asio::any_io_executor& on, boost::asio::awaitable<T, Executor> call,
            completes<Result> done)
{
    const Executor* executor = nullptr;
    if constexpr (std::same_as<Executor, boost::asio::any_io_executor>)
        executor = &on;
    else
        executor = on.template target<Executor>();
    if constexpr (std::convertible_to<boost::asio::io_context::executor_type, Executor>) {
        if (!on)
            return run_here(std::move(call), std::move(done));
    }
    if (executor != nullptr && on)
        boost::asio::co_spawn(*executor, std::move(call), std::move(done));
    else
        done.fail({std::errc::invalid_argument,
                   "nbd: the function of on_lookup, on_list or authorise is awaited on an executor "
                   "that the clients of this server do not have; boost::asio::awaitable<T> runs on "
                   "any"});
}

/// *Returns* `f` with its type erased.
template <class Result, class... Args, class F>
[[nodiscard]] program_function<Result, Args...> erased(F f)
{
    return [shared = std::make_shared<F>(std::move(f))](const boost::asio::any_io_executor& on,
                                                        answer<Result>& to, Args... args) {
        using returned = decltype((*shared)(args...));
        completes<Result> done{to};
        try {
            if constexpr (awaited_result<returned>) {
                auto call = (*shared)(args...);
                run_on(on, std::move(call), std::move(done));
            } else if constexpr (std::is_void_v<returned>) {
                (*shared)(args...);
                done(nullptr);
            } else {
                done(nullptr, (*shared)(args...));
            }
        } catch (...) {
            done.fail(current_failure());
        }
    };
}

}  // namespace nbd::exports
