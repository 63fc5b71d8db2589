// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/backend/file_failure.hpp>

TEST_CASE("backend/file_failure: errors without a value on the wire are EIO with the original "
          "message (P86)")
{
    for (const int error : {EPERM, EACCES, EROFS, EIO, ENOMEM, ENOSPC, EDQUOT, EFBIG, EINVAL}) {
        const auto said = nbd::file_failure(error, 7);
        CHECK(said.code == std::error_code(error, std::system_category()));
        CHECK(said.offset == 7);
    }
    for (const int error : {ENODATA, ESTALE, ENXIO, EREMOTEIO, ETIMEDOUT, ESHUTDOWN, ENOTSUP}) {
        const auto said = nbd::file_failure(error);
        CHECK(said == std::errc::io_error);
        CHECK(said.text == std::generic_category().message(error));
        CHECK_FALSE(said.offset);
    }
}
