// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/exports/presence.hpp>
#include <nbd/exports/shared_backend.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/settings.hpp>
#include <nbd/transmission/capabilities.hpp>
#include <nbd/vocabulary/outcome_of.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

namespace nbd::exports {

/// A backend under a name and with settings. The set shares it with the clients that have the
/// export open; one that was looked up belongs to its client.
/// *Thread safety*: constant members and atomics: any thread. The backend: as its promise
/// `concurrency` allows.
template <class Backend>
struct export_record {
    using backend_type = Backend;
    /// Whether one backend serves all clients and has `resize`.
    static constexpr bool resizable = has_resize<Backend> && !has_open<Backend>;
    static constexpr bool locks = shared_backend<Backend>::locks;
    static constexpr bool serializes_long_calls = shared_backend<Backend>::serializes_long_calls;
    static constexpr const char* bad_description =
        "nbd: an export's description must be UTF-8 without NUL and at most 4096 bytes";
    /// Clients and files use signed 64-bit offsets.
    static constexpr std::uint64_t most_bytes{std::numeric_limits<std::int64_t>::max()};

    /// *Errors*: the backend's.
    export_record(std::string n, export_settings e, std::shared_ptr<shared_backend<Backend>> b,
                  std::shared_ptr<presence> p)
        : name{std::move(n)}, settings{std::move(e)}, shared{std::move(b)}, in_set{std::move(p)}
    {
        shared->prepare();
    }

    /// *Returns* the block sizes of an export that `disk` serves.
    /// *Errors*: std::invalid_argument if the export's minimum block size is below the backend's,
    /// which could not serve such requests.
    template <class Served>
    [[nodiscard]] static protocol::block_sizes blocks_of(const Served& disk,
                                                         const export_settings& e)
    {
        protocol::block_sizes blocks;
        if constexpr (has_block_sizes<Served>) {
            blocks = disk.block_sizes();
            if (e.blocks && e.blocks->minimum < blocks.minimum)
                throw std::invalid_argument{
                    "nbd: an export's minimum block size (" + std::to_string(e.blocks->minimum)
                    + ") must not be below its backend's (" + std::to_string(blocks.minimum) + ")"};
        }
        return e.blocks ? *e.blocks : blocks;
    }
    /// *Returns* the terms of an export of `size` bytes that `disk` serves.
    /// *Errors*: as blocks_of; an exception of the backend.
    template <class Served>
    [[nodiscard]] static protocol::export_terms
    terms_of(const Served& disk, const export_settings& e, std::uint64_t size)
    {
        auto flags = transmission::capabilities<Served>();
        if constexpr (has_abilities<Served>)
            flags = transmission::available(flags, disk.abilities());
        protocol::export_terms terms{
            .size = size, .flags = transmission::offered(flags, e), .blocks = blocks_of(disk, e)};
        // A client must not resize the object that `open` returned for it: the objects of other
        // clients would keep their size.
        if constexpr (has_open<Backend>)
            terms.flags &= static_cast<std::uint16_t>(~protocol::transmission_flag::send_resize);
        return terms;
    }

    /// Checks terms. *Errors*: std::invalid_argument, whose text states the rule that the terms
    /// break.
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
    /// Checks the whole record. *Errors*: as above.
    void check() const
    {
        if (!protocol::valid_string(name))
            throw std::invalid_argument{
                "nbd: an export's name must be UTF-8 without NUL and at most 4096 bytes long"};
        if (!protocol::valid_string(description()))
            throw std::invalid_argument{bad_description};
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

    /// Resizes a backend whose `resize` is not awaited; for an awaited one, see async_resize.hpp.
    /// *Returns* the failure, after which the size is unchanged; EDEADLK on a thread that holds one
    /// of the locks that a resize takes.
    [[nodiscard]] failure resize(std::uint64_t bytes)
        requires(resizable && !awaits_resize<Backend>)
    {
        if (is_locked_here())
            return std::errc::resource_deadlock_would_occur;
        const std::lock_guard one_at_a_time{resizing};
        if (!can_be(bytes))
            return std::make_error_code(std::errc::invalid_argument);
        const auto before = size.load();
        begin_resize(bytes);
        failure failed;
        {
            [[maybe_unused]] const auto lock = lock_backend();
            failed = outcome_of([&] { return backend.resize(bytes); });
        }
        shared->set_size(failed ? before : bytes);
        return failed;
    }
    /// Whether the size is found out again for each client that opens the export.
    static constexpr bool refreshes_size =
        has_refresh_size<Backend> && !has_open<Backend> && !awaits_resize<Backend>;
    /// Asks the backend for its size; not during a resize, which sets the size.
    void refresh_size()
        requires(refreshes_size)
    {
        const std::unique_lock alone{resizing, std::try_to_lock};
        if (!alone)
            return;
        const auto bytes = std::min(backend.refresh_size(), most_bytes);
        const auto now = bytes - bytes % blocks_of(backend, settings).minimum;
        if (now != size.load())
            shared->set_size(now);
    }
    /// Whether the calling thread is in a call of the backend that holds one of the locks.
    [[nodiscard]] bool is_locked_here() const noexcept
        requires(!awaits_resize<Backend>)
    {
        if constexpr (locks) {
            if (mutex.held_here())
                return true;
        }
        return resizing.held_here();
    }
    /// Whether the export may have this size in bytes.
    [[nodiscard]] bool can_be(std::uint64_t bytes) const
    {
        return bytes <= most_bytes && bytes % blocks_of(backend, settings).minimum == 0;
    }
    /// Makes the server refuse requests past a smaller end, before the backend removes the data
    /// there.
    void begin_resize(std::uint64_t bytes) noexcept { size.store(std::min(size.load(), bytes)); }

    const std::string name;
    const export_settings settings;
    const std::shared_ptr<shared_backend<Backend>> shared;
    const std::shared_ptr<presence> in_set;
    // Members of `shared`.
    Backend& backend{*shared->backend};
    const std::vector<protocol::meta_context>& contexts{shared->contexts};
    std::atomic<std::uint64_t>& size{shared->size};
    std::atomic<std::size_t>& clients{shared->clients};
    decltype(shared_backend<Backend>::resizing)& resizing{shared->resizing};
    decltype(shared_backend<Backend>::mutex)& mutex{shared->mutex};
    decltype(shared_backend<Backend>::long_calls_mutex)& long_calls_mutex{shared->long_calls_mutex};
};

}  // namespace nbd::exports
