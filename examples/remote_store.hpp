// SPDX-License-Identifier: MIT
// The protocol between remote_store.cpp and remote_cache.cpp. The store sends a greeting. Then the
// client sends requests, one at a time, and the store replies to each. All numbers are big-endian.
#pragma once

#include <boost/endian/arithmetic.hpp>

#include <cstdint>

namespace remote {

using boost::endian::big_uint32_t;
using boost::endian::big_uint64_t;

struct greeting {
    static constexpr std::uint64_t expected_magic = 0x424c'4f43'4b53'0001;
    big_uint64_t magic;
    big_uint64_t size;  ///< of the disk, in bytes
};

/// A request can be sent again: the result is the same. When `sync` is answered with success, the
/// data of all `put` requests that were answered before are on stable storage.
enum class operation : std::uint32_t { get = 1, put = 2, sync = 3 };

struct request {
    static constexpr std::uint32_t max_length = 1 << 20;
    big_uint32_t what;    ///< an operation
    big_uint32_t length;  ///< of the data in bytes; those of a put follow
    big_uint64_t offset;  ///< in bytes
};

struct reply {
    big_uint32_t error;  ///< an errno value, or 0: the data of a get follow
};

}  // namespace remote
