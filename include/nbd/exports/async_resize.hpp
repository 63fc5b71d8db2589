// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/exports/async_lock.hpp>
#include <nbd/exports/export_record.hpp>
#include <nbd/vocabulary/outcome_of.hpp>

#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <memory>
#include <system_error>
#include <type_traits>
#include <utility>

namespace nbd::exports {

/// The boost::asio::awaitable of a backend's `resize`.
template <awaits_resize Backend>
using awaitable_resize = decltype(std::declval<Backend&>().resize(0));

/// Resizes a backend whose `resize` is awaited. Resizes of one export run one after the other.
/// *Returns* the failure, after which the size is unchanged; errc::unknown_export if `r` is null.
template <awaits_resize Backend>
[[nodiscard]] boost::asio::awaitable<failure, typename awaitable_resize<Backend>::executor_type>
async_resize(std::shared_ptr<export_record<Backend>> r, std::uint64_t bytes)
{
    using executor_type = typename awaitable_resize<Backend>::executor_type;
    if (!r)
        co_return errc::unknown_export;
    failure failed;
    try {
        const auto one_at_a_time = co_await lock<executor_type>(r->resizing);
        if (!r->can_be(bytes))
            co_return std::make_error_code(std::errc::invalid_argument);
        const auto before = r->size.load();
        r->begin_resize(bytes);
        try {
            if constexpr (std::is_void_v<typename awaitable_resize<Backend>::value_type>)
                co_await r->backend.resize(bytes);
            else
                failed = co_await r->backend.resize(bytes);
        } catch (...) {
            failed = current_failure();
        }
        r->shared->set_size(failed ? before : bytes);
    } catch (...) {  // no memory, or block_sizes() threw
        failed = current_failure();
    }
    co_return failed;
}

}  // namespace nbd::exports
