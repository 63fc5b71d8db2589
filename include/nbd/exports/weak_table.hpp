// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <utility>

namespace nbd::exports {

/// Objects by key, each of which lives as long as somebody shares it.
/// *Thread safety*: one thread at a time.
template <class Key, class T>
class weak_table {
public:
    /// *Returns* the object of that key, which is made from `args` if there is none.
    /// *Complexity*: logarithmic, amortised.
    template <class... Args>
    [[nodiscard]] std::shared_ptr<T> share(const Key& key, Args&&... args)
    {
        if (all_.size() >= sweep_at_) {
            std::erase_if(all_, [](const auto& e) { return e.second.expired(); });
            sweep_at_ = std::max(least, 2 * all_.size());
        }
        auto& known = all_[key];
        auto shared = known.lock();
        if (!shared)
            known = shared = std::make_shared<T>(std::forward<Args>(args)...);
        return shared;
    }
    /// Removes the key. *Returns* its object; null if there is none.
    template <class K>
    [[nodiscard]] std::shared_ptr<T> take(const K& key)
    {
        const auto at = all_.find(key);
        if (at == all_.end())
            return nullptr;
        auto shared = at->second.lock();
        all_.erase(at);
        return shared;
    }
    /// The number of keys, with those whose object is destroyed.
    [[nodiscard]] std::size_t size() const noexcept { return all_.size(); }

private:
    static constexpr std::size_t least = 64;

    std::map<Key, std::weak_ptr<T>, std::less<>> all_;
    std::size_t sweep_at_ = least;
};

}  // namespace nbd::exports
