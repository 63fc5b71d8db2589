// SPDX-License-Identifier: MIT
#include "serving.hpp"
#include <nbd/backend/file_backend.hpp>
#include <nbd/threading/per_client_threads.hpp>

#include <utility>

int serve_file_per_client(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    return serve<nbd::file_backend, nbd::per_client_threads>(a, disk, std::move(e));
}
