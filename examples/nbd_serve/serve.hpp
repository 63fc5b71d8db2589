// SPDX-License-Identifier: MIT
// The servers of nbd-serve: one type for each kind of disk and policy. Each is compiled in a file
// of its own, because that takes a compiler several seconds.
#pragma once

#include "arguments.hpp"
#include <nbd/settings.hpp>

/// Serves a disk until a signal ends the program or, with --stdio, its client has left.
/// *Returns* the exit status. *Errors*: usage_error, and other exceptions with a text for the user.
using serve_function = int(const arguments&, const disk_arguments&, nbd::export_settings);

serve_function serve_mem_per_client;
serve_function serve_mem_pool;
serve_function serve_null_per_client;
serve_function serve_null_pool;
serve_function serve_file_per_client;
serve_function serve_file_pool;
#ifdef NBD_SERVE_URING
serve_function serve_uring_per_client;
serve_function serve_uring_pool;
#endif
