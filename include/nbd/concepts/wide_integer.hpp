// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace nbd {

/// Stands for an argument of type Integer in an expression that is not evaluated. It converts to no
/// integer that is narrower, nor to a floating-point number, so a function that would get a
/// truncated offset or length cannot be called with it.
template <std::integral Integer>
struct wide_integer {
    template <class T>
        requires((std::integral<T> && sizeof(T) >= sizeof(Integer))
                 || (std::is_class_v<T> && std::convertible_to<Integer, T>))
    operator T() const noexcept;
};

using wide_offset = wide_integer<std::uint64_t>;
using wide_size = wide_integer<std::size_t>;

}  // namespace nbd
