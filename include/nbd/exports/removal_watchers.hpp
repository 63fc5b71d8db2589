// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace nbd::exports {

/// The servers of an export set, which are told when an export is removed.
/// *Thread safety*: any member from any thread.
template <class Record>
class removal_watchers {
public:
    /// Takes over the removal: *returns* false if it cannot.
    using function = bool (*)(void* object, const std::shared_ptr<Record>&) noexcept;

    /// `removed` is called while `object` exists, from any thread. It must not call members of the
    /// export set.
    void add(std::weak_ptr<void> object, function removed)
    {
        const std::lock_guard lock{mutex_};
        std::erase_if(all_, [](const auto& w) { return w.object.expired(); });
        all_.push_back({std::move(object), removed});
    }
    /// Tells one watcher.
    void tell(const std::shared_ptr<Record>& removed)
    {
        const std::lock_guard lock{mutex_};
        for (const auto& w : all_)
            if (const auto object = w.object.lock(); object && w.removed(object.get(), removed))
                return;
    }

private:
    struct watcher {
        std::weak_ptr<void> object;
        function removed;
    };
    std::mutex mutex_;
    std::vector<watcher> all_;
};

}  // namespace nbd::exports
