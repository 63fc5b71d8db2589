// SPDX-License-Identifier: MIT
#include "serving.hpp"
#include <nbd/backend/rbd_backend.hpp>

#include <utility>

int serve_rbd(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    return serve<nbd::rbd_backend>(a, disk, std::move(e));
}
