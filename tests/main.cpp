// SPDX-License-Identifier: MIT
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#endif
#include "catch.hpp"

#include <iostream>

namespace {
bool skipped = false;
constexpr int exit_skipped = 77;
}  // namespace

void nbd_test::note_skip(std::string_view reason)
{
    skipped = true;
    std::cout << "SKIPPED: " << reason << std::endl;
}

int main(int argc, char** argv)
{
    const int result = Catch::Session().run(argc, argv);
    return result == 0 && skipped ? exit_skipped : result;
}
