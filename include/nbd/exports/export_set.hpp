// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/error.hpp>
#include <nbd/exports/async_resize.hpp>
#include <nbd/exports/export_record.hpp>
#include <nbd/exports/opened_export.hpp>
#include <nbd/exports/removal_watchers.hpp>
#include <nbd/exports/unfit_exports.hpp>
#include <nbd/settings.hpp>

#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd {

/// A backend that cannot be served selects this primary template. A compile error states why.
template <class Backend>
class export_set : public exports::unfit_exports<Backend> {
    using reason = diagnosis::explained_backend<Backend, diagnosis::first_broken<Backend>()>;
};

/// The exports of a server, by name. Exports can be added and removed while clients are connected.
/// The empty name denotes the default export: the first one that was added, until `set_default`.
/// *Thread safety*: any thread may call any member at any time, except the destructor; also from a
/// backend, an observer or `admit`.
/// *Lifetime*: every server that uses the set shares its ownership.
template <class Backend>
    requires(diagnosis::backend_is_sound<Backend>())
class export_set<Backend> {
    using record = exports::export_record<Backend>;

public:
    using backend_type = Backend;
    /// An export as one client has it open.
    using opened = exports::opened_export<Backend>;

    /// Whether calls of the backend take a lock, because it promises no more than serialize_all.
    static constexpr bool locks = record::locks;

    export_set() = default;
    export_set(const export_set&) = delete;
    export_set& operator=(const export_set&) = delete;

    /// Adds an export. `name` and the description are UTF-8 of at most 4096 bytes, without NUL.
    /// *Returns* the backend, for a program that keeps using it.
    /// *Errors*: std::invalid_argument for a name that is in use, and for a name, a size or block
    /// sizes that are not allowed; the set is unchanged then.
    /// *Lifetime*: the backend lives until the export is removed and its last client has left, and
    /// while the program keeps the returned pointer.
    template <class B = Backend>
        requires(!std::convertible_to<B, export_settings>)
    std::shared_ptr<Backend> add(std::string name, B&& backend, export_settings e = {})
    {
        constexpr bool fits = std::convertible_to<B, Backend>;
        constexpr bool is_backend = std::same_as<std::remove_cvref_t<B>, Backend>;
        static_assert(fits || is_backend,
                      "nbd: the second argument of `add` is a backend; to construct it from other "
                      "arguments use `emplace(name, settings, constructor arguments...)`");
        static_assert(fits || !is_backend || !std::is_lvalue_reference_v<B>,
                      "nbd: this backend cannot be copied; pass it to `add` with std::move, or "
                      "construct it with `emplace(name, settings, constructor arguments...)`");
        static_assert(fits || !is_backend || std::is_lvalue_reference_v<B>,
                      "nbd: this backend cannot be moved; make it in its place with "
                      "`exports().emplace(name, settings, constructor arguments...)`");
        if constexpr (fits)
            return emplace(std::move(name), std::move(e), std::forward<B>(backend));
        else
            return {};
    }
    /// Other arguments: a compile error.
    template <class... Args>
        requires(!exports::fit_add<Args...>)
    std::shared_ptr<Backend> add(const Args&...)
    {
        static_assert(exports::fit_add<Args...>,
                      "nbd: the arguments of `add` are a name, a backend and optionally settings: "
                      "`add(\"disk\", my_disk{...}, {.description = \"...\"})`");
        return {};
    }

    /// As `add`, for a backend that is constructed in place from `args`.
    template <class... Args>
    std::shared_ptr<Backend> emplace(std::string name, export_settings e, Args&&... args)
    {
        static_assert(std::constructible_from<Backend, Args...>,
                      "nbd: this backend has no constructor that takes these arguments");
        if constexpr (std::constructible_from<Backend, Args...>)
            return insert(std::make_shared<record>(std::move(name), std::move(e),
                                                   std::forward<Args>(args)...));
        else
            return {};
    }
    /// Other arguments: a compile error.
    template <class... Args>
        requires(!exports::fit_emplace<Args...>)
    std::shared_ptr<Backend> emplace(const Args&...)
    {
        static_assert(exports::fit_emplace<Args...>,
                      "nbd: the arguments of `emplace` are a name, settings and the arguments of "
                      "the backend's constructor: `emplace(\"disk\", {}, ...)`");
        return {};
    }

    /// Removes an export. New clients cannot open it. Requests of clients that have it open are
    /// answered with ESHUTDOWN. *Returns* false if there is no export of that name.
    bool remove(std::string_view name)
    {
        // Destroyed after the unlock, because a backend's destructor may take long.
        std::shared_ptr<record> removed;
        std::unique_lock lock{mutex_};
        const auto at = records_.find(name);
        if (at == records_.end())
            return false;
        removed = std::move(at->second);
        removed->gone.store(true, std::memory_order_relaxed);
        if (default_ == at->first)
            default_.reset();
        records_.erase(at);
        lock.unlock();
        if constexpr (has_drain<Backend>)
            watchers_.tell(removed);
        return true;
    }

    /// Changes the size of an export to `size` bytes with the backend's `resize`, and blocks until
    /// that has ended. Requests past a smaller end fail from the beginning of the resize; added
    /// space can be used after its end. INFO and GO report the new size.
    /// *Errors*: errc::unknown_export; EINVAL for a size that is 2^63 or more, or not a multiple of
    /// the minimum block size; EDEADLK from within a call of this export's backend that a resize
    /// would wait for: any call with `serialize_all`, otherwise `resize`, `refresh_size` and
    /// `block_sizes`; the backend's. The size is unchanged then. Calls of two exports must not
    /// resize each other.
    [[nodiscard]] std::error_code resize(std::string_view name, std::uint64_t size)
        requires(record::resizable && !awaits_resize<Backend>)
    {
        const auto found = find(name);
        if (!found)
            return errc::unknown_export;
        return found->resize(size).code;
    }

    /// As `resize`, for a backend whose `resize` is awaited: an asynchronous operation with the
    /// signature void(std::error_code). The backend's `resize` runs on the executor `on`; so does
    /// the completion handler, unless it has an associated executor.
    /// The backend's own `resize` must not await it for the same export: resizes run one at a time.
    /// *Cancellation*: none.
    /// *Lifetime*: the set may be destroyed before the operation completes. `on` must stay valid
    /// until then.
    template <class Executor, class Token>
    auto async_resize(const Executor& on, std::string_view name, std::uint64_t size, Token&& token)
        requires(record::resizable && awaits_resize<Backend>)
    {
        return boost::asio::async_initiate<Token, void(std::error_code)>(
            [](auto handler, const Executor& runs_on, std::shared_ptr<record> found,
               std::uint64_t bytes) {
                const auto completes_on = boost::asio::get_associated_executor(handler, runs_on);
                boost::asio::co_spawn(
                    runs_on, exports::async_resize<Backend>(std::move(found), bytes),
                    boost::asio::bind_executor(
                        completes_on,
                        [h = std::move(handler)](const std::exception_ptr& thrown,
                                                 const failure& failed) mutable {
                            std::move(h)(thrown ? std::make_error_code(std::errc::not_enough_memory)
                                                : failed.code);
                        }));
            },
            token, on, find(name), size);
    }

    /// Sets the export that the empty name denotes; nullopt: none. An export whose own name is
    /// empty takes precedence.
    void set_default(std::optional<std::string> name)
    {
        const std::unique_lock lock{mutex_};
        default_ = std::move(name);
        default_chosen_ = true;
    }

    /// *Returns* the names of all exports, sorted bytewise.
    [[nodiscard]] std::vector<std::string> names() const
    {
        std::vector<std::string> all;
        const std::shared_lock lock{mutex_};
        for (const auto& [name, r] : records_)
            all.push_back(name);
        return all;
    }

    // --- for the sessions -----------------------------------------------------------------------

    /// Calls `f(name, description)` for each export after the name `position`, or for all with
    /// nullopt, in bytewise order, until it returns false. `f` must not call members of the set.
    /// *Returns* false if `f` did.
    template <class F>
    bool visit_after(const std::optional<std::string>& position, F&& f) const
    {
        const std::shared_lock lock{mutex_};
        return std::all_of(
            position ? records_.upper_bound(*position) : records_.begin(), records_.end(),
            [&f](const auto& e) { return f(std::string_view{e.first}, e.second->description()); });
    }

    /// *Returns* the export of that name, or the default export for the empty name; null if there
    /// is none.
    [[nodiscard]] std::shared_ptr<record> find(std::string_view name) const
    {
        const std::shared_lock lock{mutex_};
        auto at = records_.find(name);
        if (at == records_.end() && name.empty() && default_)
            at = records_.find(*default_);
        return at == records_.end() ? nullptr : at->second;
    }

    /// For the servers: those are told of a removal that call `drain`.
    [[nodiscard]] exports::removal_watchers<record>& watchers() noexcept { return watchers_; }

private:
    std::shared_ptr<Backend> insert(std::shared_ptr<record> made)
    {
        made->check();
        const std::unique_lock lock{mutex_};
        const auto [at, is_new] = records_.try_emplace(made->name, made);
        if (!is_new)
            throw std::invalid_argument{"nbd: there is already an export named \"" + made->name
                                        + '"'};
        if (!default_ && !default_chosen_)
            default_ = made->name;
        return {made, &made->backend};
    }

    exports::removal_watchers<record> watchers_;
    mutable std::shared_mutex mutex_;
    std::map<std::string, std::shared_ptr<record>, std::less<>> records_;
    std::optional<std::string> default_;
    bool default_chosen_ = false;  ///< set_default was called, so `add` sets no default
};

}  // namespace nbd
