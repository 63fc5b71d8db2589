// SPDX-License-Identifier: MIT
#include "serving.hpp"
#include <nbd/backend/file_backend.hpp>
#include <nbd/threading/strand_pool.hpp>

#include <utility>

int serve_file_pool(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    return serve<nbd::file_backend, nbd::strand_pool>(a, disk, std::move(e));
}
