// SPDX-License-Identifier: MIT
#include "session.hpp"

namespace {

[[maybe_unused]] const bool registered =
    bench::register_sessions<nbd::unix_transport>(bench::all_backends{}, bench::all_policies{});

}  // namespace
