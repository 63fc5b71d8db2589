// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/request.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nbd::session {

/// Handles extended WRITEs without PAYLOAD_LEN. The flag is a MUST (point 55), so such a WRITE is
/// refused, and no payload is expected. But qemu 8.2 to 10 leaves the flag out and sends the
/// payload. The two cases cannot both be served, so the first such WRITE of a client decides for
/// all: the client sends payloads if bytes follow within a moment that are not another request. The
/// decision is made once, because later payloads may look like anything.
class unflagged_writes {
public:
    enum class judgement {
        linger,      ///< find out whether bytes arrive within a moment, and pass that to `lingered`
        receive,     ///< bytes have arrived, but too few to tell
        payload,     ///< the WRITE has a payload
        no_payload,  ///< the WRITE has none and is refused
    };

    /// Whether this is such a WRITE. `longest` is the longest payload that a WRITE may have.
    [[nodiscard]] static bool concern(const protocol::request& r, std::uint64_t longest) noexcept
    {
        return r.extended && r.command == protocol::command::write
            && !r.has(protocol::command_flag::payload_len) && r.length != 0 && r.length <= longest;
    }

    /// `next` are the bytes that have arrived behind the header of the request.
    [[nodiscard]] judgement judge(const protocol::request& r,
                                  std::span<const std::byte> next) noexcept
    {
        if (!known_) {
            if (next.empty() && !more_came_)
                return judgement::linger;
            if (next.size() < std::min<std::uint64_t>(r.length, 4))
                return judgement::receive;
            known_ = true;
            payload_ = next.size() < 4
                || protocol::load<std::uint32_t>(next) != protocol::extended_request_magic;
        }
        return payload_ ? judgement::payload : judgement::no_payload;
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
