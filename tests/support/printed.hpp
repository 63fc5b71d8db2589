// SPDX-License-Identifier: MIT
// How Catch2 prints extents when a check of them fails.
#pragma once

#include "catch.hpp"
#include <nbd/vocabulary/extent_list.hpp>

#include <string>

namespace Catch {
template <>
struct StringMaker<nbd::extent> {
    static std::string convert(const nbd::extent& e)
    {
        return std::to_string(e.length) + '/' + std::to_string(e.flags);
    }
};
}  // namespace Catch
