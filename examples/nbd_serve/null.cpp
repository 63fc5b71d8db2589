// SPDX-License-Identifier: MIT
#include "serving.hpp"
#include <nbd/backend/null_backend.hpp>

#include <utility>

int serve_null(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    return serve<nbd::null_backend>(a, disk, std::move(e));
}
