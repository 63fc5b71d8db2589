// SPDX-License-Identifier: MIT
// A system that refuses some system calls, as the seccomp profile of a container does.
#pragma once

#include "catch.hpp"

#include <cstddef>
#include <initializer_list>
#include <vector>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace nbd_test {

/// Makes the calls of this process with these numbers fail with `error`, from now on. *Returns*
/// false if the system has no seccomp filters.
inline bool refuse(std::initializer_list<long> calls, int error)
{
    std::vector<::sock_filter> filter{
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(::seccomp_data, nr))};
    for (const long call : calls) {
        filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
        filter.push_back(
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)));
    }
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    ::sock_fprog program{.len = static_cast<unsigned short>(filter.size()),
                         .filter = filter.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/// Calls `works`, which returns a bool, in a child process that refuses these calls. *Returns* what
/// it returned; true, and notes that the test is skipped, without seccomp filters.
template <class F>
bool works_refusing(std::initializer_list<long> calls, int error, F works)
{
    const auto child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (!refuse(calls, error))
            ::_exit(77);
        bool worked = false;
        try {
            worked = works();
        } catch (...) {  // a failure
        }
        ::_exit(worked ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        note_skip("this system has no seccomp filters");
        return true;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace nbd_test
