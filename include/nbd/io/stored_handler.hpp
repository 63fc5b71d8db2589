// SPDX-License-Identifier: MIT
#pragma once

#include <cassert>
#include <cstddef>
#include <new>
#include <tuple>
#include <type_traits>
#include <utility>

namespace nbd::io {

/// The object that starts an operation on this thread now; see initiate.
inline thread_local const void* initiating = nullptr;

/// Calls `start`, which passes a handler of `object` to Asio. *Returns* false if it throws. Asio
/// has then destroyed the handler, whose destructor distinguishes this by `initiating == object`.
template <class Start>
[[nodiscard]] bool initiate(const void* object, Start&& start) noexcept
{
    const void* const outer = std::exchange(initiating, object);
    bool started = true;
    try {
        start();
    } catch (...) {
        started = false;
    }
    initiating = outer;
    return started;
}

/// Holds one handler of a coroutine, of any type, without an allocation. `Args` are the arguments
/// of the handler. The destructor destroys a handler that was not called, and with it the
/// coroutine.
template <class... Args>
class stored_handler {
public:
    stored_handler() = default;
    stored_handler(const stored_handler&) = delete;
    stored_handler& operator=(const stored_handler&) = delete;
    ~stored_handler() { destroy(); }

    [[nodiscard]] explicit operator bool() const noexcept { return release_ != nullptr; }

    template <class Handler>
    void store(Handler&& handler) noexcept
    {
        using stored = std::decay_t<Handler>;
        static_assert(sizeof(stored) <= sizeof(bytes_) && alignof(stored) <= alignof(void*)
                      && std::is_nothrow_move_constructible_v<stored>);
        assert(!*this);
        ::new (static_cast<void*>(bytes_)) stored(std::forward<Handler>(handler));
        release_ = [](stored_handler& self, std::tuple<Args...>* with) {
            auto& here = *std::launder(reinterpret_cast<stored*>(self.bytes_));
            stored taken{std::move(here)};
            here.~stored();
            self.release_ = nullptr;
            // The call may destroy `self`.
            if (with != nullptr)
                std::apply(std::move(taken), std::move(*with));
        };
    }

    /// Calls the handler, which is no longer stored then.
    void call(Args... args)
    {
        std::tuple<Args...> with{std::move(args)...};
        release_(*this, &with);
    }
    void destroy()
    {
        if (*this)
            release_(*this, nullptr);
    }

private:
    alignas(void*) std::byte bytes_[4 * sizeof(void*)];
    void (*release_)(stored_handler&, std::tuple<Args...>*) = nullptr;
};

}  // namespace nbd::io
