// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/error.hpp>
#include <nbd/exports/async_mutex.hpp>
#include <nbd/exports/export_record.hpp>
#include <nbd/handshake/export_info.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/settings.hpp>
#include <nbd/transmission/block_status.hpp>
#include <nbd/transmission/execution.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
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
    using record = export_record<Backend>;

public:
    class opened;

    /// True where calls of the backend take a lock, because it does not promise to do without.
    static constexpr bool locks = record::locks;

    export_set() = default;
    export_set(const export_set&) = delete;
    export_set& operator=(const export_set&) = delete;

    /// Adds an export. The backend lives until the export is removed and its last client has left.
    /// Errors: std::invalid_argument, which says what is wrong with a name, a size or block sizes;
    /// the set is unchanged then. Returns the backend, for a program that wants to look at it.
    std::shared_ptr<Backend> add(std::string name, Backend backend, export_settings e = {})
    {
        static_assert(std::move_constructible<Backend>,
                      "nbd: this backend cannot be moved; make it in its place with "
                      "`exports().emplace(name, settings, constructor arguments...)`");
        if constexpr (std::move_constructible<Backend>)
            return emplace(std::move(name), std::move(e), std::move(backend));
    }

    /// As add, for a backend that is made in place from `args`.
    template <class... Args>
    std::shared_ptr<Backend> emplace(std::string name, export_settings e, Args&&... args)
    {
        static_assert(std::constructible_from<Backend, Args...>,
                      "nbd: this backend has no constructor that takes these arguments");
        auto made =
            std::make_shared<record>(std::move(name), std::move(e), std::forward<Args>(args)...);
        made->check();
        const std::unique_lock lock{mutex_};
        const auto [at, is_new] = records_.try_emplace(made->name, made);
        if (!is_new)
            throw std::invalid_argument{"nbd: an export named \"" + made->name
                                        + "\" is there already"};
        if (!default_ && !default_chosen_)
            default_ = made->name;
        return {made, &made->backend};
    }

    /// Removes an export: nobody can open it any more, and requests of clients that have it open
    /// are answered ESHUTDOWN. False where there is none of that name.
    bool remove(std::string_view name)
    {
        std::shared_ptr<record> removed;  // its backend may take its time to go, without our lock
        const std::unique_lock lock{mutex_};
        const auto at = records_.find(name);
        if (at == records_.end())
            return false;
        removed = std::move(at->second);
        removed->gone.store(true, std::memory_order_relaxed);
        if (default_ == at->first)
            default_.reset();
        records_.erase(at);
        return true;
    }

    /// Changes an export's size, in bytes, by the backend's own `resize`. Requests past a new end fail
    /// from then on, and what is added can be used at once; INFO and GO tell the new size.
    /// Errors: errc::unknown_export, the backend's, EINVAL for a size that is 2^63 or more or no
    /// multiple of the minimum block size; the size is unchanged then.
    [[nodiscard]] std::error_code resize(std::string_view name, std::uint64_t size)
        requires(has_resize<Backend> && !has_open<Backend>)
    {
        const auto found = find(name);
        if (!found)
            return errc::unknown_export;
        return found->resize(size).code;
    }

    /// Which export the empty name asks for; nothing = none, unless one is named so.
    void set_default(std::optional<std::string> name)
    {
        const std::unique_lock lock{mutex_};
        default_ = std::move(name);
        default_chosen_ = true;
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
        error = transmission::outcome_of([&] {
                    result.emplace(opened{std::move(found), who});
                }).code;
        return result;
    }

private:
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
    bool default_chosen_ = false;  ///< by set_default, and not to be undone by the next add
};

/// An export as one client has it open. Keeps the export's backend alive, also after its removal.
template <class Backend>
class export_set<Backend>::opened {
public:
    using backend_type = served_t<Backend>;

    [[nodiscard]] handshake::export_info info() const noexcept
    {
        return {record_->name, record_->description(), terms_, contexts(),
                record_->settings.require_block_sizes};
    }
    /// The size now, in bytes: as it was when the client came, until export_set::resize.
    [[nodiscard]] std::uint64_t size() const noexcept
    {
        if constexpr (has_open<Backend>)
            return terms_.size;
        else
            return record_->size.load(std::memory_order_relaxed);
    }
    /// The RESIZE command.
    [[nodiscard]] failure resize([[maybe_unused]] std::uint64_t size) noexcept
    {
        if constexpr (has_resize<Backend> && !has_open<Backend>)
            return transmission::outcome_of([&] { return record_->resize(size); });
        else
            return std::make_error_code(std::errc::not_supported);
    }
    [[nodiscard]] backend_type& backend() noexcept
    {
        if constexpr (has_open<Backend>)
            return state_;
        else
            return record_->backend;
    }
    /// Where calls that are awaited wait for each other, for a backend that wants it so.
    [[nodiscard]] exports::async_mutex& async_mutex() noexcept
        requires(record::takes_turns)
    {
        return record_->turns;
    }
    /// Held during each call of the backend; nothing where the backend does without.
    [[nodiscard]] auto lock() const { return record_->lock_backend(); }
    /// The export was removed meanwhile.
    [[nodiscard]] bool gone() const noexcept
    {
        return record_->gone.load(std::memory_order_relaxed);
    }

private:
    friend export_set;

    opened(std::shared_ptr<record> r, const client& who) : opened{r, who, lock_to_open(*r)} {}

    /// Only `open` is a call that has to wait for its turn, and who has none waits for nobody: calls may take
    /// as long as a device does, and this is where other clients live.
    [[nodiscard]] static auto lock_to_open([[maybe_unused]] record& r)
    {
        if constexpr (has_open<Backend>)
            return r.lock_backend();
        else
            return std::monostate{};
    }

    template <class Lock>
    opened(std::shared_ptr<record> r, const client& who, const Lock&)
        : record_{std::move(r)}, state_{open(*record_, who)},
          terms_{record::terms_of(backend(), record_->settings, size_of(*record_, state_))}
    {
        if constexpr (has_open<Backend>) {
            record::check(terms_);
            contexts_ = transmission::contexts_of(state_);
        }
    }

    template <class State>
    [[nodiscard]] static std::uint64_t size_of(const record& r, const State& state)
    {
        if constexpr (has_open<Backend>)
            return static_cast<std::uint64_t>(state.size());
        else
            return r.size;
    }

    [[nodiscard]] std::span<const protocol::meta_context> contexts() const noexcept
    {
        if constexpr (has_open<Backend>)
            return contexts_;
        else
            return record_->contexts;
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
    [[no_unique_address]] std::conditional_t<has_open<Backend>, std::vector<protocol::meta_context>,
                                             std::monostate>
        contexts_;
};

}  // namespace nbd
