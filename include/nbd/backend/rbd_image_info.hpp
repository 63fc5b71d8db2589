// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/constants.hpp>
#include <nbd/vocabulary/extent_list.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace nbd {

/// What an rbd_backend finds out about its image once, when it opens it.
struct rbd_image_info {
    std::uint64_t size = 0;
    std::uint64_t object_size = 0;
    std::uint64_t stripe_unit = 0;  ///< bytes that follow each other in one object
    bool read_only = false;
    std::vector<std::string> snapshots{};  ///< the older ones, if a snapshot is open
};

/// A part of an image that was written since a snapshot or, without a snapshot, ever.
struct rbd_area {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    bool exists = true;  ///< false: it was discarded, and reads as zero
};

/// The statuses of an image's parts, for a meta context.
struct rbd_statuses {
    std::uint64_t untouched = 0;  ///< of what is in no area
    std::uint64_t exists = 0;
    std::uint64_t discarded = 0;
};
inline constexpr rbd_statuses rbd_allocation{
    protocol::state_flag::hole | protocol::state_flag::zero, 0,
    protocol::state_flag::hole | protocol::state_flag::zero};
/// Of the meta contexts `nbd-cpp:rbd-snap-diff:SNAP`. Bit 0: changed since the snapshot. Bit 1: and
/// reads as zero now.
inline constexpr rbd_statuses rbd_snap_diff{0, 1, 1 | 2};

/// Reports the range [offset, end) of an image with these areas. They may be in any order, as those
/// of a striped image are, and reach out of the range; they do not overlap.
inline void report_areas(std::vector<rbd_area>& areas, std::uint64_t offset, std::uint64_t end,
                         const rbd_statuses& as, extent_list& to)
{
    std::ranges::sort(areas, {}, &rbd_area::offset);
    for (const auto& area : areas) {
        const auto from = std::clamp(area.offset, offset, end);
        const auto until = std::clamp(area.offset + area.length, from, end);
        if (from == until)
            continue;
        to.add(from - offset, as.untouched);
        if (!to.add(until - from, area.exists ? as.exists : as.discarded))
            return;
        offset = until;
    }
    to.add(end - offset, as.untouched);
}

}  // namespace nbd
