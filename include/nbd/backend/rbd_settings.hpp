// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace nbd {

/// Which image of a Ceph cluster an rbd_backend opens, and how.
struct rbd_settings {
    std::string pool{};
    std::string name_space{};  ///< of the pool; empty is the default namespace
    std::string image{};
    std::string snapshot{};  ///< empty: the image itself. A snapshot is read-only.
    /// The path of a ceph.conf; empty: where Ceph looks for it (CEPH_CONF, /etc/ceph, ...).
    std::string ceph_conf{};
    std::string ceph_id{};  ///< the user without "client."; empty: admin
    bool read_only = false;
    /// Hold the image's exclusive lock while the backend lives, so that no other client can write.
    /// If it is false, clients of an image with the feature exclusive-lock take turns, and those of
    /// any other image write at the same time.
    bool exclusive = true;
    std::chrono::seconds connect_timeout{30};  ///< for the monitors; 0: no limit
    /// Other options of Ceph, such as {"rbd_cache", "false"} or {"rados_osd_op_timeout", "60"}.
    std::vector<std::pair<std::string, std::string>> options{};

    /// `rbd:POOL/NAMESPACE/IMAGE@SNAPSHOT`, without the parts that are empty.
    [[nodiscard]] std::string name() const
    {
        return "rbd:" + pool + '/' + (name_space.empty() ? "" : name_space + '/') + image
            + (snapshot.empty() ? "" : '@' + snapshot);
    }
};

}  // namespace nbd
