// SPDX-License-Identifier: MIT
#include "serving.hpp"
#include <nbd/backend/mem_backend.hpp>
#include <nbd/threading/per_client_threads.hpp>

#include <utility>

int serve_mem_per_client(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    return serve<nbd::mem_backend, nbd::per_client_threads>(a, disk, std::move(e));
}
