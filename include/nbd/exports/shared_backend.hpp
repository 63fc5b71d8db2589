// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/exports/async_mutex.hpp>
#include <nbd/exports/owned_mutex.hpp>
#include <nbd/exports/size_watchers.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/transmission/block_status.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace nbd::exports {

/// A backend with its size and the locks that serialize its calls. Every export of the backend
/// shares it: there are several where a lookup gives it for several names, or with other settings
/// for another client.
/// *Thread safety*: the backend: as its promise `concurrency` allows. The rest: any thread.
template <class Backend>
struct shared_backend {
    /// Whether `mutex` is held during each synchronous call, because the backend promises no more
    /// than serialize_all.
    static constexpr bool locks = concurrency_of<served_t<Backend>>() == concurrency::serialize_all;
    /// Whether calls that may wait for long are serialized by `long_calls_mutex`, whose waiters
    /// hold no thread: those of an asynchronous backend, or of one that promises `blocks`.
    static constexpr bool serializes_long_calls =
        locks && (asynchronous<served_t<Backend>> || promises_blocks<served_t<Backend>>);

    explicit shared_backend(std::shared_ptr<Backend> b) noexcept : backend{std::move(b)} {}

    /// Asks the backend for its contexts and its size; only the first call does.
    void prepare()
    {
        if constexpr (!has_open<Backend> && has_size<Backend>) {
            const std::lock_guard lock{preparing_};
            if (prepared_)
                return;
            contexts = transmission::contexts_of(*backend);
            size.store(static_cast<std::uint64_t>(backend->size()));
            prepared_ = true;
        }
    }

    /// Sets the size when a resize has ended.
    void set_size(std::uint64_t bytes)
    {
        size.store(bytes);
        watchers.tell(bytes);
    }

    const std::shared_ptr<Backend> backend;
    std::vector<protocol::meta_context> contexts;  ///< empty if the backend has `open`
    std::atomic<std::uint64_t> size{0};            ///< bytes; 0 if the backend has `open`
    size_watchers watchers;                        ///< of `size`
    std::atomic<std::size_t> clients{0};  ///< in transmission; counted for a backend with `drain`
    /// Held during a resize.
    [[no_unique_address]] std::conditional_t<awaits_resize<Backend>, async_mutex, owned_mutex>
        resizing;
    [[no_unique_address]] std::conditional_t<locks, owned_mutex, std::monostate> mutex;
    [[no_unique_address]] std::conditional_t<serializes_long_calls, async_mutex, std::monostate>
        long_calls_mutex;

private:
    std::mutex preparing_;
    bool prepared_ = false;
};

}  // namespace nbd::exports
