// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <utility>

#include <fcntl.h>

TEST_CASE(
    "vocabulary/owned_descriptor: it is closed once, by its last owner, unless it is released")
{
    const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    {
        nbd::owned_descriptor first{fd};
        {
            nbd::owned_descriptor second{std::move(first)};
            CHECK(first.get() == -1);
            CHECK(second.release() == fd);
        }
        CHECK(::fcntl(fd, F_GETFD) != -1);
        const nbd::owned_descriptor last{fd};
    }
    CHECK(::fcntl(fd, F_GETFD) == -1);
}
