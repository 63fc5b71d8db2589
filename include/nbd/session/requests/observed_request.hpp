// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/observer.hpp>
#include <nbd/protocol/request.hpp>

#include <utility>

namespace nbd::session {

/// A request, and what the observer's `at_request` returned for it.
template <class Observer>
struct observed_request : protocol::request {
    using note_type = notify::note_of<Observer>;

    observed_request() = default;
    observed_request(const protocol::request& r, note_type n = {})
        : protocol::request{r}, note{std::move(n)}
    {
    }

    [[no_unique_address]] note_type note{};
};

}  // namespace nbd::session
