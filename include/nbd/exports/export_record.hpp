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

namespace nbd::exports {

/// An export as export_set stores it: the backend, its settings and what serialises its calls.
/// Shared by the set and by the clients that have the export open.
/// *Thread safety*: the constant members and the atomics from any thread; the backend as its promise
/// `concurrency` says.
template <class Backend>
struct export_record {
    /// One backend serves all clients, and its size can be changed.
    static constexpr bool resizable = has_resize<Backend> && !has_open<Backend>;
    /// `mutex` is held during each call of the backend, which does not promise to do without.
    static constexpr bool locks = concurrency_of<served_t<Backend>>() == concurrency::serialize_all;
    /// The same, for calls that take long: they wait at `turns`, without a thread.
    static constexpr bool takes_turns =
        locks && (asynchronous<served_t<Backend>> || promises_blocks<served_t<Backend>>);
    /// Clients and files count in signed 64 bits.
    static constexpr std::uint64_t most_bytes{std::numeric_limits<std::int64_t>::max()};

    template <class... Args>
    export_record(std::string n, export_settings e, Args&&... args)
        : name{std::move(n)}, settings{std::move(e)}, backend(std::forward<Args>(args)...)
    {
        if constexpr (!has_open<Backend> && has_size<Backend>) {
            contexts = transmission::contexts_of(backend);
            size.store(static_cast<std::uint64_t>(backend.size()));
        }
    }

    /// What clients are told of an export whose calls `disk` serves, `size` bytes long.
    /// *Errors*: std::invalid_argument where the export's blocks are smaller than the backend's, which
    /// could not serve them.
    template <class Served>
    [[nodiscard]] static protocol::export_terms
    terms_of(const Served& disk, const export_settings& e, std::uint64_t size)
    {
        protocol::export_terms terms{
            .size = size,
            .flags = transmission::offered(transmission::capabilities<Served>(), e),
            .blocks = {}};
        // A client must not resize what `open` returned for it: other clients have other sizes.
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

    /// *Errors*: std::invalid_argument, with the rule that the terms break.
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
    /// The same for the whole record.
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

    [[nodiscard]] std::string_view description() const noexcept
    {
        return settings.description ? std::string_view{*settings.description} : name;
    }

    [[nodiscard]] auto lock_backend()
    {
        if constexpr (locks)
            return std::unique_lock{mutex};
        else
            return std::monostate{};
    }

    /// Resizes a backend whose `resize` is not awaited; see async_resize.hpp for the other.
    [[nodiscard]] failure resize(std::uint64_t bytes)
        requires(resizable && !awaits_resize<Backend>)
    {
        const std::lock_guard one_at_a_time{resizing};
        if (!can_be(bytes))
            return std::make_error_code(std::errc::invalid_argument);
        const auto before = size.load();
        begin_resize(bytes);
        failure failed;
        {
            [[maybe_unused]] const auto lock = lock_backend();
            failed = transmission::outcome_of([&] { return backend.resize(bytes); });
        }
        size.store(failed ? before : bytes);
        return failed;
    }
    /// Whether the export may have this size.
    [[nodiscard]] bool can_be(std::uint64_t bytes) const
    {
        return bytes <= most_bytes
            && bytes % terms_of(backend, settings, bytes).blocks.minimum == 0;
    }
    /// Refuses requests for what is to be cut off, before the backend cuts it off.
    void begin_resize(std::uint64_t bytes) noexcept { size.store(std::min(size.load(), bytes)); }

    const std::string name;
    const export_settings settings;
    Backend backend;
    std::vector<protocol::meta_context> contexts;  ///< unless the backend has `open`
    std::atomic<std::uint64_t> size{0};            ///< bytes; unless the backend has `open`
    std::atomic<bool> gone{false};                 ///< removed from its set
    /// Held for as long as a resize takes.
    [[no_unique_address]] std::conditional_t<awaits_resize<Backend>, async_mutex, std::mutex>
        resizing;
    [[no_unique_address]] std::conditional_t<locks, std::mutex, std::monostate> mutex;
    [[no_unique_address]] std::conditional_t<takes_turns, async_mutex, std::monostate> turns;
};

}  // namespace nbd::exports
