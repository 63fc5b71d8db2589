// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/failure.hpp>

#include <system_error>
#include <type_traits>
#include <utility>

namespace nbd {

/// The completion handler that a backend with callbacks gets as the last argument of `async_read`
/// and its siblings. Call it once with the outcome. A completion that is destroyed without a call
/// fails the request with EIO.
///
///     void async_read(std::uint64_t offset, std::span<std::byte> to, nbd::completion done)
///     {
///         store_.get(offset, to,
///                    [done = std::move(done)](std::error_code e) mutable { done(e); });
///     }
///
/// It is not copied, so a std::function or a std::any cannot hold it; for those, see `release`.
///
/// *Thread safety*: any thread may call or destroy it, also before the member returns.
/// *Lifetime*: the spans and the extent_list of the call are valid until then. The server waits for
/// the completion when a client leaves and when it stops, so a completion must not be kept forever.
/// With on_executor, a completion must not outlive the io_context: stop the server and wait for its
/// end before.
/// *Cost*: one pointer; no allocation.
class completion {
public:
    /// The receiver of the outcome, which the server implements.
    struct receiver {
        void (*complete)(receiver&, failure&&) noexcept = nullptr;
    };

    explicit completion(receiver& to) noexcept : to_{&to} {}
    completion(completion&& other) noexcept : to_{std::exchange(other.to_, nullptr)} {}
    completion(const completion&) = delete;  // nbd: a completion is not copied; use std::move
    completion& operator=(completion&& other) noexcept
    {
        std::swap(to_, other.to_);
        return *this;
    }
    ~completion()
    {
        if (to_ != nullptr)
            (*this)(std::make_error_code(std::errc::io_error));
    }

    /// Completes the call with `outcome`: a failure, a std or Boost error code, or success. A
    /// second call does nothing.
    void operator()(failure outcome = {}) noexcept
    {
        if (receiver* const to = std::exchange(to_, nullptr))
            to->complete(*to, std::move(outcome));
    }

    /// Of a constant object: a compile error.
    template <class Unused = void>
    void operator()(const failure& = {}) const
    {
        static_assert(!std::is_void_v<Unused>,
                      "nbd: this completion is constant; a lambda that calls it is `mutable`");
    }

    /// Converts the completion to a pointer, for the context argument of a C interface. The pointer
    /// must be passed to `adopt` once.
    [[nodiscard]] void* release() noexcept { return std::exchange(to_, nullptr); }
    /// Converts a pointer from `release` back to the completion.
    [[nodiscard]] static completion adopt(void* released) noexcept
    {
        return completion{*static_cast<receiver*>(released)};
    }

private:
    receiver* to_;
};

/// Stands for a completion in an expression that is not evaluated. It converts to nothing else, so
/// a function that takes a std::function instead cannot be called with it.
struct only_completion {
    operator completion() const noexcept;
};

}  // namespace nbd
