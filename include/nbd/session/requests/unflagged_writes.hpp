// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/request.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nbd::session {

/// Extended WRITEs that do not say that a payload follows. They MUST (point 55), and one that does
/// not is refused. But qemu 8.2 to 10 sends the payload and does not say so. What is right for either
/// is wrong for the other, so the first such WRITE of a client shows which kind it is: whether
/// something follows within a moment, and is not another request. It is not asked again, for a guest
/// can write anything.
class unflagged_writes {
public:
    enum class verdict {
        linger,   ///< see whether more comes within a moment, and say so to `lingered`
        receive,  ///< more has come, but not enough to tell
        payload,  ///< the WRITE has its payload
        none,     ///< it has not, and is refused
    };

    /// `longest` is what could be a payload at all.
    [[nodiscard]] static bool concern(const protocol::request& r, std::uint64_t longest) noexcept
    {
        return r.extended && r.command == protocol::command::write
            && !r.has(protocol::command_flag::payload_len) && r.length != 0 && r.length <= longest;
    }

    /// `next` is what has come after the request's header.
    [[nodiscard]] verdict judge(const protocol::request& r,
                                std::span<const std::byte> next) noexcept
    {
        if (!known_) {
            if (next.empty() && !more_came_)
                return verdict::linger;
            if (next.size() < std::min<std::uint64_t>(r.length, 4))
                return verdict::receive;
            known_ = true;
            payload_ = next.size() < 4
                || protocol::load<std::uint32_t>(next) != protocol::extended_request_magic;
        }
        return payload_ ? verdict::payload : verdict::none;
    }

    void lingered(bool more) noexcept
    {
        more_came_ = more;
        known_ = !more;
    }

private:
    bool known_ = false;
    bool payload_ = false;
    bool more_came_ = false;
};

}  // namespace nbd::session
