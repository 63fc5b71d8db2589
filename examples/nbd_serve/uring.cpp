// SPDX-License-Identifier: MIT
#include "serving.hpp"
#include <nbd/backend/uring_file_backend.hpp>

#include <utility>

int serve_uring(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    return serve<nbd::uring_file_backend>(a, disk, std::move(e));
}
