// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/error.hpp>

#include <set>
#include <string>

static_assert(std::is_error_code_enum_v<nbd::errc>);

TEST_CASE("error: every value has its own message in the category nbd")
{
    CHECK(std::string{nbd::error_category().name()} == "nbd");
    std::set<std::string> sentences;
    int values = 0;
    for (int value = 1; value < 100; ++value) {
        const auto message = nbd::error_category().message(value);
        if (message == "unknown error")
            continue;
        ++values;
        CHECK(sentences.insert(message).second);
    }
    // The first and the last enumerator; those between are counted.
    CHECK(values == static_cast<int>(nbd::errc::path_too_long));
    CHECK(static_cast<int>(nbd::errc::bad_option_magic) == 1);
    CHECK(nbd::error_category().message(0) == "unknown error");
    CHECK(nbd::error_category().message(-1) == "unknown error");
}

TEST_CASE("error: an enumerator converts to an error code that is an error")
{
    const std::error_code code = nbd::errc::cut_short;
    CHECK(code);
    CHECK(code == nbd::errc::cut_short);
    CHECK(code != nbd::errc::evicted);
    CHECK(&code.category() == &nbd::error_category());
    CHECK(code.message() == "the connection ended in the middle of a message");
    CHECK(code != std::error_code{code.value(), std::generic_category()});
}
