// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace nbd_fuzz {

/// Runs an input. A difference from the model ends the program, as what a sanitizer finds does.
using target = void (*)(const std::uint8_t* data, std::size_t size);

/// *Returns* the target of that name, or null: handshake, transmission, session,
/// windowed, meta_context.
target target_named(std::string_view name);

/// From now on the client takes 256 KiB of replies at most, and is gone then.
void be_quick();

}  // namespace nbd_fuzz
