// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/error.hpp>
#include <nbd/handshake/export_info.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/settings.hpp>
#include <nbd/transmission/capabilities.hpp>
#include <nbd/transmission/execution.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace nbd {

/// The exports of a server, by name. They can be added and removed while clients are connected.
/// The first one added is the default export, which the empty name asks for, until `set_default`.
/// Thread safety: every member may be called from any thread at any time, but the destructor.
template <class Backend>
class export_set {
    struct record;

public:
    class opened;

    /// True where calls of the backend take a lock, because it does not promise to do without.
    static constexpr bool locks =
        concurrency_of<served_t<Backend>>() == concurrency::serialize_all;

    export_set() = default;
    export_set(const export_set&) = delete;
    export_set& operator=(const export_set&) = delete;

    /// Adds an export. The backend lives until the export is removed and its last client has left.
    /// Errors: std::invalid_argument, which says what is wrong with a name, a size or block sizes;
    /// the set is unchanged then.
    void add(std::string name, Backend backend, export_settings e = {})
    {
        emplace(std::move(name), std::move(e), std::move(backend));
    }

    /// As add, for a backend that is made in place from `args`.
    template <class... Args>
    void emplace(std::string name, export_settings e, Args&&... args)
    {
        auto made = std::make_shared<record>(std::move(name), std::move(e),
                                             std::forward<Args>(args)...);
        check(*made);
        const std::unique_lock lock{mutex_};
        const auto [at, is_new] = records_.try_emplace(made->name, made);
        if (!is_new)
            throw std::invalid_argument{"nbd: an export named \"" + made->name
                                        + "\" is there already"};
        if (!default_)
            default_ = made->name;
    }

    /// Removes an export: nobody can open it any more, and requests of clients that have it open
    /// are answered ESHUTDOWN. False where there is none of that name.
    bool remove(std::string_view name)
    {
        const std::unique_lock lock{mutex_};
        const auto at = records_.find(name);
        if (at == records_.end())
            return false;
        at->second->gone.store(true, std::memory_order_relaxed);
        if (default_ == at->first)
            default_.reset();
        records_.erase(at);
        return true;
    }

    /// Which export the empty name asks for; nothing = none, unless one is named so.
    void set_default(std::optional<std::string> name)
    {
        const std::unique_lock lock{mutex_};
        default_ = std::move(name);
    }

    /// The names, in order.
    [[nodiscard]] std::vector<std::string> names() const
    {
        std::vector<std::string> all;
        visit(std::numeric_limits<std::size_t>::max(),
              [&](std::string_view name, std::string_view) { all.emplace_back(name); });
        return all;
    }

    // --- for the sessions -----------------------------------------------------------------------

    /// Calls `f(name, description)` for at most `limit` exports, in order.
    template <class F>
    void visit(std::size_t limit, F&& f) const
    {
        const std::shared_lock lock{mutex_};
        for (const auto& [name, r] : records_) {
            if (limit-- == 0)
                return;
            f(std::string_view{name}, r->description());
        }
    }

    /// Opens an export for a client; calls the backend's `open` where it has one. Nothing, and why
    /// not in `error`: errc::unknown_export, or what the backend threw.
    [[nodiscard]] std::optional<opened> open(std::string_view name, const client& who,
                                             std::error_code& error) const
    {
        auto found = find(name);
        if (!found) {
            error = errc::unknown_export;
            return std::nullopt;
        }
        std::optional<opened> result;
        error = transmission::outcome_of([&] { result.emplace(opened{std::move(found), who}); });
        return result;
    }

private:
    struct record {
        template <class... Args>
        record(std::string n, export_settings e, Args&&... args)
            : name{std::move(n)}, settings{std::move(e)}, backend(std::forward<Args>(args)...)
        {
        }

        [[nodiscard]] std::string_view description() const noexcept
        {
            return settings.description ? std::string_view{*settings.description} : name;
        }

        const std::string name;
        const export_settings settings;
        Backend backend;
        std::atomic<bool> gone{false};
        [[no_unique_address]] std::conditional_t<locks, std::mutex, std::monostate> mutex;
    };

    template <class Served>
    [[nodiscard]] static protocol::export_terms terms_of(const Served& disk,
                                                         const export_settings& e)
    {
        protocol::export_terms terms{
            .size = static_cast<std::uint64_t>(disk.size()),
            .flags = transmission::offered(transmission::capabilities<Served>(), e),
            .blocks = {}};
        if (e.blocks)
            terms.blocks = *e.blocks;
        else if constexpr (has_block_sizes<Served>)
            terms.blocks = disk.block_sizes();
        return terms;
    }

    static void check(const protocol::export_terms& t)
    {
        // Clients count in signed 64 bits, and so do files.
        if (t.size > std::uint64_t{std::numeric_limits<std::int64_t>::max()})
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
    static void check(const record& r)
    {
        if (!protocol::valid_string(r.name))
            throw std::invalid_argument{
                "nbd: an export's name must be UTF-8 without NUL and at most 4096 bytes long"};
        if (!protocol::valid_string(r.description()))
            throw std::invalid_argument{
                "nbd: an export's description must be UTF-8 without NUL and at most 4096 bytes"};
        if constexpr (!has_open<Backend>)
            check(terms_of(r.backend, r.settings));
    }

    [[nodiscard]] std::shared_ptr<record> find(std::string_view name) const
    {
        const std::shared_lock lock{mutex_};
        auto at = records_.find(name);
        if (at == records_.end() && name.empty() && default_)
            at = records_.find(*default_);
        return at == records_.end() ? nullptr : at->second;
    }

    mutable std::shared_mutex mutex_;
    std::map<std::string, std::shared_ptr<record>, std::less<>> records_;
    std::optional<std::string> default_;
};

/// An export as one client has it open. Keeps the export's backend alive, also after its removal.
template <class Backend>
class export_set<Backend>::opened {
public:
    using backend_type = served_t<Backend>;

    [[nodiscard]] handshake::export_info info() const noexcept
    {
        return {record_->name, record_->description(), terms_};
    }
    /// What the handshake promised this client; a later change of the backend's size is not in it.
    [[nodiscard]] const protocol::export_terms& terms() const noexcept { return terms_; }
    [[nodiscard]] backend_type& backend() noexcept
    {
        if constexpr (has_open<Backend>)
            return state_;
        else
            return record_->backend;
    }
    /// Held during each call of the backend; nothing where the backend does without.
    [[nodiscard]] auto lock()
    {
        if constexpr (locks)
            return std::unique_lock{record_->mutex};
        else
            return std::monostate{};
    }
    /// The export was removed meanwhile.
    [[nodiscard]] bool gone() const noexcept
    {
        return record_->gone.load(std::memory_order_relaxed);
    }

private:
    friend export_set;

    opened(std::shared_ptr<record> r, const client& who)
        : record_{std::move(r)}, state_{open(*record_, who)},
          terms_{terms_of(backend(), record_->settings)}
    {
        if constexpr (has_open<Backend>)
            check(terms_);
    }

    static auto open(record& r, [[maybe_unused]] const client& who)
    {
        if constexpr (has_open<Backend>)
            return r.backend.open(who);
        else
            return std::monostate{};
    }

    std::shared_ptr<record> record_;
    std::conditional_t<has_open<Backend>, backend_type, std::monostate> state_;
    protocol::export_terms terms_;
};

}  // namespace nbd
