// SPDX-License-Identifier: MIT
// Stands between the tests and liburing: counts what the kernel is asked for, and refuses it where a test wants
// to see what follows. It does not know liburing's header, so that it can define functions of the same names.
#pragma once

namespace nbd_test {

struct uring_kernel {
    static inline int submissions = 0;         ///< system calls that take operations
    static inline int rings = 0;               ///< made
    static inline int refuse_submissions = 0;  ///< so many times
    static inline int submission_error = 0;    ///< with this number
    static inline int refuse_rings = 0;
    static inline int ring_error = 0;
    static inline unsigned refused_flags = 0;  ///< as kernels that do not know them do

    static void reset()
    {
        submissions = rings = refuse_submissions = submission_error = 0;
        refuse_rings = ring_error = 0;
        refused_flags = 0;
    }
};

}  // namespace nbd_test
