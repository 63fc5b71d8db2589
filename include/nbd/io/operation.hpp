// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/stored_handler.hpp>

#include <boost/asio/async_result.hpp>
#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>

#include <tuple>
#include <type_traits>
#include <utility>

namespace nbd::io {

/// An operation of Asio for `co_await`, whose result is a tuple: an error code, then `Values`.
///
/// If the initiation throws, the error is asio::error::no_memory. With use_awaitable, Asio destroys
/// the coroutine instead, without a call of its completion handler.
///
/// `Start` is called with the completion handler. The handler has no associated executor: the
/// operation completes on the executor of its I/O object, which must be that of the coroutine.
template <class Start, class... Values>
class operation {
public:
    using result = std::tuple<boost::system::error_code, Values...>;

    explicit operation(Start start) : start_{std::move(start)} {}

    template <class Token>
        requires(
            !std::is_pointer_v<std::decay_t<Token>>)  // Asio also tries the frame of a coroutine
    auto operator()(Token&& token)
    {
        return boost::asio::async_initiate<Token, void(result)>(
            [this](auto handler) {
                handler_.store(std::move(handler));
                // A started operation may have completed on another thread, which destroys this
                // object.
                if (!initiate(this, [this] { start_(completion{*this}); }))
                    handler_.call(result{boost::asio::error::no_memory, Values{}...});
            },
            token);
    }

private:
    /// If Asio destroys it without a call because the context ends, it destroys the coroutine.
    class completion {
    public:
        explicit completion(operation& of) noexcept : of_{&of} {}
        completion(completion&& other) noexcept : of_{std::exchange(other.of_, nullptr)} {}
        completion& operator=(completion&&) = delete;
        ~completion()
        {
            if (of_ != nullptr && of_ != initiating)
                of_->handler_.destroy();
        }
        void operator()(boost::system::error_code error = {}, Values... values)
        {
            std::exchange(of_, nullptr)->handler_.call(result{error, std::move(values)...});
        }

    private:
        operation* of_;
    };

    Start start_;
    stored_handler<result> handler_;
};

/// Makes an operation with these `Values`.
template <class... Values, class Start>
[[nodiscard]] operation<Start, Values...> make_operation(Start start)
{
    return operation<Start, Values...>{std::move(start)};
}

}  // namespace nbd::io
