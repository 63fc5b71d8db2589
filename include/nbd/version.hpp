// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

namespace nbd {

/// The version of this library, as CMakeLists.txt states it (a test compares the two).
inline constexpr std::string_view version = "0.1.0";

}  // namespace nbd
