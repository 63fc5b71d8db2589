// SPDX-License-Identifier: MIT
// All targets in one file, because most of what they compile is the same.
#include "targets.hpp"

#include "handshake_target.hpp"
#include "meta_context_target.hpp"
#include "session_target.hpp"
#include "transmission_target.hpp"
#include "windowed_target.hpp"

namespace nbd_fuzz {

namespace {

template <void (*run)(std::span<const std::byte>)>
void judged(const std::uint8_t* data, std::size_t size)
{
    try {
        run({reinterpret_cast<const std::byte*>(data), size});
    } catch (const nbd_model::difference& why) {
        report(why);
    }
}

}  // namespace

target target_named(std::string_view name)
{
    if (name == "handshake")
        return judged<handshake_target::run>;
    if (name == "transmission")
        return judged<transmission_target::run>;
    if (name == "session")
        return judged<session_target::run>;
    if (name == "windowed")
        return judged<windowed_target::run>;
    if (name == "meta_context")
        return judged<meta_context_target::run>;
    return nullptr;
}

void be_quick()
{
    most_heard = std::size_t{256} << 10;
}

}  // namespace nbd_fuzz
