// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/export_record.hpp>
#include <nbd/exports/presence.hpp>
#include <nbd/exports/program_calls.hpp>
#include <nbd/exports/removal_watchers.hpp>
#include <nbd/exports/shared_backend.hpp>
#include <nbd/exports/weak_table.hpp>
#include <nbd/settings.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nbd::exports {

/// The exports of a set, by name: those that were added, and what clients share of those that were
/// looked up. No function of the program, and no member of a backend, is called with the lock held.
/// *Thread safety*: any thread.
template <class Backend>
class export_table {
public:
    using record = export_record<Backend>;
    template <class Function>
    using shared_function = std::shared_ptr<const Function>;

    /// *Errors*: std::invalid_argument for a name that is in use, and those of export_record.
    void add(std::string name, export_settings e, const std::shared_ptr<Backend>& backend)
    {
        const auto made =
            make(std::move(name), std::move(e), backend, std::make_shared<presence>());
        const std::unique_lock lock{mutex_};
        const auto [at, is_new] = records_.try_emplace(made->name, made);
        if (!is_new)
            throw std::invalid_argument{"nbd: there is already an export named \"" + made->name
                                        + '"'};
        if (!default_ && !default_chosen_)
            default_ = made->name;
    }
    /// *Returns* false if there is no export of that name, and no client that has looked it up.
    bool remove(std::string_view name, const removal& how)
    {
        // Destroyed after the unlock, because a backend's destructor may take long.
        std::shared_ptr<record> removed;
        std::shared_ptr<presence> looked_up;
        std::unique_lock lock{mutex_};
        if (const auto at = records_.find(name); at != records_.end()) {
            removed = std::move(at->second);
            removed->in_set->remove(how);
            if (default_ == at->first)
                default_.reset();
            records_.erase(at);
        }
        if ((looked_up = presences_.take(name)))
            looked_up->remove(how);
        lock.unlock();
        if constexpr (has_drain<Backend>) {
            if (removed)
                watchers_.tell(removed);
        }
        return removed || looked_up;
    }
    /// Changes the settings of an export that was added, for clients that open it from now on.
    /// *Returns* false if there is none.
    template <class Edit>
    bool change(std::string_view name, Edit edit)
    {
        const std::unique_lock lock{mutex_};
        const auto at = find(*this, name);
        if (at == records_.end())
            return false;
        auto& now = at->second;
        auto changed = now->settings;
        edit(changed);
        now = std::make_shared<record>(now->name, std::move(changed), now->shared, now->in_set);
        return true;
    }
    /// Sets the export that the empty name denotes.
    void set_default(std::optional<std::string> name)
    {
        const std::unique_lock lock{mutex_};
        default_ = std::move(name);
        default_chosen_ = true;
    }
    [[nodiscard]] std::vector<std::string> names() const
    {
        std::vector<std::string> all;
        const std::shared_lock lock{mutex_};
        for (const auto& [name, r] : records_)
            all.push_back(name);
        return all;
    }
    /// Replaces a function of the program, for later calls.
    void set(shared_function<lookup_function<Backend>> f)
    {
        const std::unique_lock lock{mutex_};
        lookup_.swap(f);  // the previous one is destroyed after the unlock
    }
    void set(shared_function<list_function> f)
    {
        const std::unique_lock lock{mutex_};
        list_.swap(f);
    }

    // --- for the sessions -----------------------------------------------------------------------

    /// *Returns* the export that was added under that name, or the default export for the empty
    /// name; null if there is none.
    [[nodiscard]] std::shared_ptr<record> registered(std::string_view name) const
    {
        const std::shared_lock lock{mutex_};
        const auto at = find(*this, name);
        return at == records_.end() ? nullptr : at->second;
    }
    /// *Returns* the name to look up: that of the default export instead of the empty name.
    [[nodiscard]] std::string name_to_look_up(std::string_view name) const
    {
        const std::shared_lock lock{mutex_};
        return name.empty() && default_ ? *default_ : std::string{name};
    }
    /// *Returns* the function of export_set::on_lookup, or null.
    [[nodiscard]] shared_function<lookup_function<Backend>> lookup() const
    {
        const std::shared_lock lock{mutex_};
        return lookup_;
    }
    /// *Returns* the function of export_set::on_list, or null.
    [[nodiscard]] shared_function<list_function> list() const
    {
        const std::shared_lock lock{mutex_};
        return list_;
    }
    /// *Returns* an export that was looked up, as a new record; null if there is none.
    /// *Errors*: those of export_record.
    [[nodiscard]] std::shared_ptr<record> looked_up(std::string_view name,
                                                    found_export<Backend> found)
    {
        if (!found.backend)
            return nullptr;
        std::unique_lock lock{mutex_};
        auto in_set = presences_.share(std::string{name});
        lock.unlock();
        return make(std::string{name}, std::move(found.settings), found.backend, std::move(in_set));
    }
    /// Calls `f(name, description)` for each export that was added after the name `position`, or
    /// for all with nullopt, in bytewise order, until it returns false. `f` must not call members
    /// of the set. `secured`: also those with `tls_only`.
    /// *Returns* false if `f` did.
    template <class F>
    bool visit_after(const std::optional<std::string>& position, F&& f, bool secured = true) const
    {
        const std::shared_lock lock{mutex_};
        return std::all_of(position ? records_.upper_bound(*position) : records_.begin(),
                           records_.end(), [&f, secured](const auto& e) {
                               return (e.second->settings.tls_only && !secured)
                                   || f(std::string_view{e.first}, e.second->description());
                           });
    }

    /// For the servers: those are told of a removal that call `drain`.
    [[nodiscard]] removal_watchers<record>& watchers() noexcept { return watchers_; }

private:
    [[nodiscard]] std::shared_ptr<record> make(std::string name, export_settings e,
                                               const std::shared_ptr<Backend>& backend,
                                               std::shared_ptr<presence> in_set)
    {
        std::unique_lock lock{mutex_};
        auto shared = backends_.share(backend.get(), backend);
        lock.unlock();
        auto made = std::make_shared<record>(std::move(name), std::move(e), std::move(shared),
                                             std::move(in_set));
        made->check();
        return made;
    }
    /// `Table`: this class, constant or not.
    template <class Table>
    [[nodiscard]] static auto find(Table& table, std::string_view name)
    {
        auto at = table.records_.find(name);
        if (at == table.records_.end() && name.empty() && table.default_)
            at = table.records_.find(*table.default_);
        return at;
    }

    removal_watchers<record> watchers_;
    mutable std::shared_mutex mutex_;
    std::map<std::string, std::shared_ptr<record>, std::less<>> records_;
    std::optional<std::string> default_;
    bool default_chosen_ = false;  ///< set_default was called, so `add` sets no default
    /// The locks and the size of each backend, which all its exports share.
    weak_table<const Backend*, shared_backend<Backend>> backends_;
    weak_table<std::string, presence> presences_;  ///< of exports that were looked up
    shared_function<lookup_function<Backend>> lookup_;
    shared_function<list_function> list_;
};

}  // namespace nbd::exports
