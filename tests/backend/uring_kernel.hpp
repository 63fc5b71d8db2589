// SPDX-License-Identifier: MIT
// Stands between the library and liburing: counts system calls, and lets them fail if a test wants
// that. It does not include liburing's header, so that it can define functions of the same names.
#pragma once

namespace nbd_test {

struct uring_kernel {
    static inline int submissions = 0;         ///< system calls that submit operations
    static inline int rings = 0;               ///< created rings
    static inline int refuse_submissions = 0;  ///< how often
    static inline int submission_error = 0;    ///< the errno
    static inline int refuse_rings = 0;
    static inline int ring_error = 0;
    static inline unsigned refused_flags = 0;  ///< as kernels without these flags do

    static void reset()
    {
        submissions = rings = refuse_submissions = submission_error = 0;
        refuse_rings = ring_error = 0;
        refused_flags = 0;
    }
};

}  // namespace nbd_test
