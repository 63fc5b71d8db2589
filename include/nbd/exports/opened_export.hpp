// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/exports/async_lock.hpp>
#include <nbd/exports/async_resize.hpp>
#include <nbd/exports/drain_order.hpp>
#include <nbd/exports/export_record.hpp>
#include <nbd/handshake/export_info.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/transmission/block_status.hpp>
#include <nbd/vocabulary/outcome_of.hpp>

#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace nbd::exports {

/// An export that one client has open.
/// *Lifetime*: the backend lives as long as this object, even if the export is removed.
template <class Backend>
class opened_export {
    using record = export_record<Backend>;

public:
    using backend_type = served_t<Backend>;
    /// The type that the backend's `open` returns; std::monostate for a backend without `open`.
    using state_type = std::conditional_t<has_open<Backend>, backend_type, std::monostate>;

    /// *Errors*: std::invalid_argument if the size or the block sizes of `state` are not allowed.
    opened_export(std::shared_ptr<record> r, state_type state)
        : record_{std::move(r)}, state_{std::move(state)},
          terms_{record::terms_of(backend(), record_->settings, first_size())}
    {
        if constexpr (has_open<Backend>) {
            record::check(terms_);
            contexts_ = transmission::contexts_of(state_);
        }
    }

    /// Whether this is what the client would get if it opened `r`, which may be null: a lookup
    /// makes a record for each call.
    [[nodiscard]] bool is(const std::shared_ptr<record>& r) const noexcept
    {
        return r == record_
            || (r && r->shared == record_->shared && r->in_set == record_->in_set
                && r->settings == record_->settings);
    }

    /// *Returns* what the handshake tells the client, with the current size.
    [[nodiscard]] handshake::export_info info() const noexcept
    {
        auto terms = terms_;
        terms.size = size();
        return {record_->name, record_->description(), terms, contexts(),
                record_->settings.require_block_sizes};
    }
    /// The current size in bytes.
    [[nodiscard]] std::uint64_t size() const noexcept
    {
        if constexpr (has_open<Backend>)
            return terms_.size;
        else
            return record_->size.load(std::memory_order_relaxed);
    }
    [[nodiscard]] backend_type& backend() noexcept
    {
        if constexpr (has_open<Backend>)
            return state_;
        else
            return record_->backend;
    }
    /// Whether the export was removed after it was opened.
    [[nodiscard]] bool gone() const noexcept { return record_->in_set->gone(); }
    [[nodiscard]] const std::shared_ptr<presence>& in_set() const noexcept
    {
        return record_->in_set;
    }

    /// Counts a client that enters transmission, for a backend with `drain`. When the client has
    /// left, the order in `to` is carried out if the count is zero.
    void count_client(drain_orders& to)
    {
        to.try_emplace(record_->shared.get(), record_);
        ++record_->clients;
    }

    /// Carries out a RESIZE. *Returns* the failure; ENOTSUP if the export cannot be resized.
    [[nodiscard]] failure resize([[maybe_unused]] std::uint64_t bytes) noexcept
    {
        if constexpr (record::resizable && !nbd::awaits_resize<Backend>)
            return outcome_of([&] { return record_->resize(bytes); });
        else
            return std::make_error_code(std::errc::not_supported);
    }
    /// Whether a RESIZE is awaited, with async_resize instead of resize.
    static constexpr bool awaits_resize = record::resizable && nbd::awaits_resize<Backend>;
    [[nodiscard]] auto async_resize(std::uint64_t bytes)
        requires(awaits_resize)
    {
        return exports::async_resize(record_, bytes);
    }

    /// *Returns* the lock that is held during each synchronous call; an empty object if the backend
    /// needs none.
    [[nodiscard]] auto lock() const { return record_->lock_backend(); }
    /// Serializes calls that may wait for long, if the backend's calls must be serialized.
    [[nodiscard]] exports::async_mutex& async_mutex() noexcept
        requires(record::serializes_long_calls)
    {
        return record_->long_calls_mutex;
    }

private:
    [[nodiscard]] std::uint64_t first_size() const
    {
        if constexpr (has_open<Backend>)
            return static_cast<std::uint64_t>(state_.size());
        else
            return record_->size;
    }
    [[nodiscard]] std::span<const protocol::meta_context> contexts() const noexcept
    {
        if constexpr (has_open<Backend>)
            return contexts_;
        else
            return record_->contexts;
    }

    std::shared_ptr<record> record_;
    [[no_unique_address]] state_type state_;
    protocol::export_terms terms_;
    [[no_unique_address]] std::conditional_t<has_open<Backend>, std::vector<protocol::meta_context>,
                                             std::monostate>
        contexts_;
};

/// Opens an export for a client, and calls the backend's `open` if it has one. *Returns* nothing on
/// failure, with the cause in `failed`.
template <class Backend>
    requires(!awaits_open<Backend>)
[[nodiscard]] std::optional<opened_export<Backend>>
open(std::shared_ptr<export_record<Backend>> r, [[maybe_unused]] const client& who,
     [[maybe_unused]] open_purpose why, failure& failed) noexcept
{
    std::optional<opened_export<Backend>> result;
    failed = outcome_of([&] {
        if constexpr (has_open<Backend>) {
            [[maybe_unused]] const auto lock = r->lock_backend();
            result.emplace(r, call_open(r->backend, who, why));
        } else {
            // Without the lock, which a call for another client may hold for long: the constructor
            // makes no call that needs it.
            if constexpr (export_record<Backend>::refreshes_size)
                r->refresh_size();
            result.emplace(std::move(r), std::monostate{});
        }
    });
    return result;
}

/// As `open`, for a backend whose `open` is awaited.
/// *Cancellation*: that of the backend's `open`. *Lifetime*: `who` and `failed` outlive the
/// coroutine.
template <awaits_open Backend>
[[nodiscard]] boost::asio::awaitable<std::optional<opened_export<Backend>>,
                                     typename open_result<Backend>::executor_type>
async_open(std::shared_ptr<export_record<Backend>> r, const client& who, open_purpose why,
           failure& failed)
{
    using executor_type = typename open_result<Backend>::executor_type;
    std::optional<opened_export<Backend>> result;
    try {
        std::optional<async_lock> lock_of_calls;
        if constexpr (export_record<Backend>::serializes_long_calls)
            lock_of_calls.emplace(co_await lock<executor_type>(r->long_calls_mutex));
        auto state = co_await call_open(r->backend, who, why);
        result.emplace(r, std::move(state));
    } catch (...) {
        failed = current_failure();
    }
    co_return result;
}

}  // namespace nbd::exports
