// SPDX-License-Identifier: MIT
// Preloaded into a program, this makes one system call fail, from the program's first line on. The
// environment variable NBD_REFUSE names the call and the number of the error: "fallocate:95". A
// call that this architecture does not have ends the program with status 77.
#include <array>
#include <cstddef>
#include <cstdlib>
#include <string_view>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

struct named_call {
    std::string_view name;
    long number;
};

constexpr named_call calls[] = {
    {"accept4", SYS_accept4},
    {"bind", SYS_bind},
    {"brk", SYS_brk},
    {"clone3", SYS_clone3},
    {"close", SYS_close},
    {"connect", SYS_connect},
    {"epoll_create1", SYS_epoll_create1},
    {"epoll_ctl", SYS_epoll_ctl},
    {"eventfd2", SYS_eventfd2},
    {"fadvise64", SYS_fadvise64},
    {"fallocate", SYS_fallocate},
    {"fchmod", SYS_fchmod},
    {"fcntl", SYS_fcntl},
    {"fdatasync", SYS_fdatasync},
    {"flock", SYS_flock},
    {"fsync", SYS_fsync},
    {"ftruncate", SYS_ftruncate},
    {"futex", SYS_futex},
    {"getpid", SYS_getpid},
    {"getrandom", SYS_getrandom},
    {"getsockname", SYS_getsockname},
    {"getsockopt", SYS_getsockopt},
    {"io_uring_enter", SYS_io_uring_enter},
    {"io_uring_setup", SYS_io_uring_setup},
    {"ioctl", SYS_ioctl},
    {"listen", SYS_listen},
    {"lseek", SYS_lseek},
    {"madvise", SYS_madvise},
    {"memfd_create", SYS_memfd_create},
    {"mincore", SYS_mincore},
    {"mmap", SYS_mmap},
    {"mprotect", SYS_mprotect},
    {"mremap", SYS_mremap},
    {"munmap", SYS_munmap},
    {"newfstatat", SYS_newfstatat},
    {"openat", SYS_openat},
    {"pipe2", SYS_pipe2},
    {"pread64", SYS_pread64},
    {"preadv", SYS_preadv},
    {"preadv2", SYS_preadv2},
    {"prlimit64", SYS_prlimit64},
    {"pwrite64", SYS_pwrite64},
    {"pwritev", SYS_pwritev},
    {"pwritev2", SYS_pwritev2},
    {"read", SYS_read},
    {"recvfrom", SYS_recvfrom},
    {"recvmsg", SYS_recvmsg},
    {"rt_sigaction", SYS_rt_sigaction},
    {"rt_sigprocmask", SYS_rt_sigprocmask},
    {"rt_sigtimedwait", SYS_rt_sigtimedwait},
    {"sched_getaffinity", SYS_sched_getaffinity},
    {"sched_yield", SYS_sched_yield},
    {"sendfile", SYS_sendfile},
    {"sendmsg", SYS_sendmsg},
    {"sendto", SYS_sendto},
    {"setsockopt", SYS_setsockopt},
    {"shutdown", SYS_shutdown},
    {"socket", SYS_socket},
    {"splice", SYS_splice},
    {"statx", SYS_statx},
    {"sync_file_range", SYS_sync_file_range},
    {"sysinfo", SYS_sysinfo},
    {"timerfd_create", SYS_timerfd_create},
    {"timerfd_settime", SYS_timerfd_settime},
    {"write", SYS_write},
    {"writev", SYS_writev},
#ifdef SYS_poll  // newer architectures have only newer calls in their place
    {"access", SYS_access},
    {"chmod", SYS_chmod},
    {"epoll_wait", SYS_epoll_wait},
    {"poll", SYS_poll},
    {"rename", SYS_rename},
    {"unlink", SYS_unlink},
#endif
};

long number_of(std::string_view name)
{
    for (const auto& call : calls)
        if (call.name == name)
            return call.number;
    return -1;
}

__attribute__((constructor)) void refuse_call()
{
    const char* const wanted = std::getenv("NBD_REFUSE");
    if (wanted == nullptr)
        return;
    const std::string_view text{wanted};
    const auto colon = text.find(':');
    const auto number = number_of(text.substr(0, colon));
    const auto error = std::atoi(wanted + colon + 1);
    std::array filter{
        ::sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(::seccomp_data, nr)),
        ::sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1),
        ::sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
        ::sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    ::sock_fprog program{.len = filter.size(), .filter = filter.data()};
    if (number < 0 || ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        ::_exit(77);
}

}  // namespace
