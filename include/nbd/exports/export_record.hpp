// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/exports/async_mutex.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/settings.hpp>
#include <nbd/transmission/block_status.hpp>
#include <nbd/transmission/capabilities.hpp>
#include <nbd/transmission/execution.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace nbd {

/// An export as its set keeps it: the backend, what clients are told of it, and how it is called. For
/// export_set, which says what is meant.
template <class Backend>
struct export_record {
    /// Calls wait for each other, because the backend does not promise to do without. Those that wait for
    /// something else, too, do so at a async_mutex, which takes no thread.
    static constexpr bool takes_turns =
        (asynchronous<served_t<Backend>>
         || promises_blocks<served_t<Backend>>)&&concurrency_of<served_t<Backend>>()
        == concurrency::serialize_all;
    /// Calls of the backend take a lock, because it does not promise to do without.
    static constexpr bool locks = concurrency_of<served_t<Backend>>() == concurrency::serialize_all;

    template <class... Args>
    export_record(std::string n, export_settings e, Args&&... args)
        : name{std::move(n)}, settings{std::move(e)}, backend(std::forward<Args>(args)...)
    {
        if constexpr (!has_open<Backend> && has_size<Backend>) {
            contexts = transmission::contexts_of(backend);
            size.store(static_cast<std::uint64_t>(backend.size()));
        }
    }

    [[nodiscard]] failure resize(std::uint64_t bytes)
        requires(has_resize<Backend> && !has_open<Backend>)
    {
        const std::lock_guard one_at_a_time{resizing};
        if (bytes > most_bytes || bytes % terms_of(backend, settings, bytes).blocks.minimum != 0)
            return std::make_error_code(std::errc::invalid_argument);
        // Nobody is let in to what is to be cut off while it is being cut off.
        const auto before = size.load();
        size.store(std::min(before, bytes));
        failure failed;
        {
            [[maybe_unused]] const auto lock = lock_backend();
            failed = transmission::outcome_of([&] { return backend.resize(bytes); });
        }
        size.store(failed ? before : bytes);
        return failed;
    }

    [[nodiscard]] auto lock_backend()
    {
        if constexpr (locks)
            return std::unique_lock{mutex};
        else
            return std::monostate{};
    }

    [[nodiscard]] std::string_view description() const noexcept
    {
        return settings.description ? std::string_view{*settings.description} : name;
    }

    /// Clients count in signed 64 bits, and so do files.
    static constexpr std::uint64_t most_bytes{std::numeric_limits<std::int64_t>::max()};

    /// Errors: std::invalid_argument for blocks that are smaller than the backend's, which could not serve them.
    template <class Served>
    [[nodiscard]] static protocol::export_terms
    terms_of(const Served& disk, const export_settings& e, std::uint64_t size)
    {
        protocol::export_terms terms{
            .size = size,
            .flags = transmission::offered(transmission::capabilities<Served>(), e),
            .blocks = {}};
        // What `open` returned is a client's own; the export's size is not its to change.
        if constexpr (has_open<Backend>)
            terms.flags &= static_cast<std::uint16_t>(~protocol::transmission_flag::send_resize);
        if constexpr (has_block_sizes<Served>) {
            terms.blocks = disk.block_sizes();
            if (e.blocks && e.blocks->minimum < terms.blocks.minimum)
                throw std::invalid_argument{"nbd: an export's minimum block size ("
                                            + std::to_string(e.blocks->minimum)
                                            + ") must not be below its backend's ("
                                            + std::to_string(terms.blocks.minimum) + ")"};
        }
        if (e.blocks)
            terms.blocks = *e.blocks;
        return terms;
    }

    static void check(const protocol::export_terms& t)
    {
        if (t.size > most_bytes)
            throw std::invalid_argument{"nbd: an export's size must be below 2^63 bytes"};
        if (!protocol::valid(t.blocks))
            throw std::invalid_argument{
                "nbd: block sizes must be minimum:preferred:maximum with a minimum that is a power "
                "of two up to 65536, a preferred size that is a power of two from 512 and not "
                "below the minimum, and a maximum not below the preferred size"};
        if (t.size % t.blocks.minimum != 0)
            throw std::invalid_argument{"nbd: an export's size (" + std::to_string(t.size)
                                        + ") must be a multiple of its minimum block size ("
                                        + std::to_string(t.blocks.minimum) + ")"};
    }
    void check() const
    {
        if (!protocol::valid_string(name))
            throw std::invalid_argument{
                "nbd: an export's name must be UTF-8 without NUL and at most 4096 bytes long"};
        if (!protocol::valid_string(description()))
            throw std::invalid_argument{
                "nbd: an export's description must be UTF-8 without NUL and at most 4096 bytes"};
        if constexpr (!has_open<Backend>)
            check(terms_of(backend, settings, size));
    }

    const std::string name;
    const export_settings settings;
    Backend backend;
    std::vector<protocol::meta_context> contexts;
    std::atomic<std::uint64_t> size{0};
    std::atomic<bool> gone{false};
    std::mutex resizing;
    [[no_unique_address]] std::conditional_t<locks, std::mutex, std::monostate> mutex;
    [[no_unique_address]] std::conditional_t<takes_turns, exports::async_mutex, std::monostate>
        turns;
};

}  // namespace nbd
