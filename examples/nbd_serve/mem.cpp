// SPDX-License-Identifier: MIT
#include "serving.hpp"
#include <nbd/backend/mem_backend.hpp>

#include <utility>

int serve_mem(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    return serve<nbd::mem_backend>(a, disk, std::move(e));
}
