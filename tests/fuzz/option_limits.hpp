// SPDX-License-Identifier: MIT
#pragma once

#include "handshake_model.hpp"
#include <nbd/settings.hpp>

#include <cstddef>

namespace nbd_fuzz {

/// Limits on the options of a handshake; bits 1 to 3 of `small` choose small ones.
inline void limit_options(nbd::settings& limits, unsigned small)
{
    limits.options_per_handshake = (small & 2) != 0 ? 3 : 32;
    limits.option_bytes = (small & 4) != 0 ? 100 : std::size_t{64} << 10;
    limits.handshake_bytes = (small & 8) != 0 ? 200 : std::size_t{128} << 10;
}
/// Tells the model of the limits on options.
inline void tell_limits(nbd_model::served& model, const nbd::settings& limits)
{
    model.options = limits.options_per_handshake;
    model.option_bytes = limits.option_bytes;
    model.option_data = limits.handshake_bytes;
}

}  // namespace nbd_fuzz
