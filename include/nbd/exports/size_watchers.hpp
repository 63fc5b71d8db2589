// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace nbd::exports {

/// Who is told that the size of a backend has changed.
/// *Thread safety*: any member from any thread.
class size_watchers {
public:
    using function = void (*)(void* object, std::uint64_t bytes) noexcept;

    /// `changed` is called while `object` exists, on the thread that resizes. It must not wait, and
    /// must not call members of the export set.
    void add(std::weak_ptr<void> object, function changed)
    {
        const std::lock_guard lock{mutex_};
        std::erase_if(all_, [](const auto& w) { return w.object.expired(); });
        all_.push_back({std::move(object), changed});
    }
    void tell(std::uint64_t bytes)
    {
        const std::lock_guard lock{mutex_};
        for (const auto& w : all_)
            if (const auto object = w.object.lock())
                w.changed(object.get(), bytes);
    }

private:
    struct watcher {
        std::weak_ptr<void> object;
        function changed;
    };
    std::mutex mutex_;
    std::vector<watcher> all_;
};

}  // namespace nbd::exports
