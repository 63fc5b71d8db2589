// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/client.hpp>

#include <type_traits>
#include <utility>

/// The two forms of a backend's `open`; see has_open in concepts/backend.hpp.
namespace nbd {

/// An `open` that is told its purpose.
template <class B>
concept opens_for_purpose =
    requires(B& b, const client& c, const open_purpose why) { b.open(c, why); };

/// Calls `open`. *Returns* what it returns.
template <class B>
    requires(opens_for_purpose<B> || requires(B& b, const client& c) { b.open(c); })
decltype(auto) call_open(B& b, const client& c, [[maybe_unused]] open_purpose why)
{
    if constexpr (opens_for_purpose<B>)
        return b.open(c, why);
    else
        return b.open(c);
}

template <class B>
using open_result =
    decltype(call_open(std::declval<B&>(), std::declval<const client&>(), open_purpose{}));

}  // namespace nbd
