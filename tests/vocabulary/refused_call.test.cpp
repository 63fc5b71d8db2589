// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/vocabulary/refused_call.hpp>

TEST_CASE("vocabulary/refused_call: the errors of a call that the system refuses")
{
    for (const int error : {EPERM, ENOSYS, EINVAL, EOPNOTSUPP})
        CHECK(nbd::may_be_refused(error));
    for (const int error : {0, EIO, ENOSPC, EAGAIN, EINTR, EBADF, EACCES, EROFS})
        CHECK_FALSE(nbd::may_be_refused(error));
}
