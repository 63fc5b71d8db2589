// SPDX-License-Identifier: MIT
#include "serving.hpp"
#include <nbd/backend/file_backend.hpp>

#include <utility>

int serve_file(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    return serve<nbd::file_backend>(a, disk, std::move(e));
}
