// SPDX-License-Identifier: MIT
// The servers of nbd-serve: one type for each kind of disk and policy. Each kind of disk is in a
// file of its own, because a server takes a compiler several seconds.
#pragma once

#include "arguments.hpp"
#include <nbd/settings.hpp>

/// Serves a disk until a signal ends the program or, with --stdio, its client has left.
/// *Returns* the exit status. *Errors*: usage_error, and other exceptions with a text for the user.
using serve_function = int(const arguments&, const disk_arguments&, nbd::export_settings);

serve_function serve_mem;
serve_function serve_null;
serve_function serve_file;
#ifdef NBD_SERVE_URING
serve_function serve_uring;
#endif
#ifdef NBD_SERVE_RBD
serve_function serve_rbd;
#endif
