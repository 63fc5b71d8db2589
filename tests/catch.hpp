// SPDX-License-Identifier: MIT
// Catch2 in its version 3 and in Debian 12's version 2.13, under one name.
// Guarded by a macro: ccache may take a precompiled header from another checkout, and then
// `#pragma once` does not recognise this file.
#ifndef NBD_TESTS_CATCH_HPP
#define NBD_TESTS_CATCH_HPP

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_approx.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/catch_tostring.hpp>
#include <catch2/generators/catch_generators_all.hpp>
#include <catch2/matchers/catch_matchers_all.hpp>
#else
#include <catch2/catch.hpp>

namespace Catch::Matchers {
// version 3's name of version 2's Contains
inline auto ContainsSubstring(const std::string& text)
{
    return Contains(text);
}
}  // namespace Catch::Matchers
#endif

#include <string_view>

namespace nbd_test {
// Says why, and makes the program's exit status 77, which ctest counts as skipped.
void note_skip(std::string_view reason);
}  // namespace nbd_test

// Ends the test case (or the function that contains it) if the machine cannot run it.
#define NBD_SKIP(reason)                                                                           \
    do {                                                                                           \
        nbd_test::note_skip(reason);                                                               \
        SUCCEED("skipped");                                                                        \
        return;                                                                                    \
    } while (false)

#endif
