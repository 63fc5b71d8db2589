// SPDX-License-Identifier: MIT
// What nbd-serve needs of the system, and texts for what it lacks.
#pragma once

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/// *Returns* the limit that an error comes from, to be added to its text.
inline std::string limit_of(const std::error_code& error)
{
    ::rlimit limit{};
    if (error.value() == EMFILE && ::getrlimit(RLIMIT_NOFILE, &limit) == 0)
        return "; the limit is " + std::to_string(limit.rlim_cur) + ", see ulimit -n";
    return {};
}
/// *Returns* the text of an error, with the limit that it comes from.
inline std::string text_of(const std::error_code& error)
{
    return error.message() + limit_of(error);
}

/// Makes each call once that nbd-serve cannot do without, so that a system that refuses one is
/// known before clients come: a container with a seccomp profile, for example.
/// *Errors*: std::runtime_error, whose text names the call.
inline void check_system()
{
    const auto need = [](bool works, const char* call) {
        const std::error_code error{errno, std::system_category()};
        if (!works)
            throw std::runtime_error{error.value() == EMFILE ? text_of(error)
                                                             : std::string{"the system refuses "}
                                             + call + ": " + text_of(error)};
    };
    // A call with a descriptor that does not exist fails with EBADF, unless it is refused.
    const auto exists = [](long result) { return result >= 0 || errno == EBADF; };
    std::byte byte{};
    int word = 0;
    ::epoll_event event{};

    // An exception needs futex, and its text needs write.
    const auto end_at_once = [](std::string text) {
        const ::iovec all{text.data(), text.size()};
        std::ignore = ::writev(STDERR_FILENO, &all, 1);
        ::_exit(1);
    };
    if (!exists(::write(-1, &byte, 1)))
        end_at_once("nbd-serve: the system refuses write\n");
    if (::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0) != 0)
        end_at_once("nbd-serve: the system refuses futex\n");
    void* const page =
        ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    need(page != MAP_FAILED, "mmap");
    need(::mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0, "mprotect");
    need(::munmap(page, 4096) == 0, "munmap");
    ::sigset_t mask;
    struct ::sigaction action {};
    need(::sigaction(SIGTERM, nullptr, &action) == 0, "rt_sigaction");
    need((errno = ::pthread_sigmask(SIG_BLOCK, nullptr, &mask)) == 0, "rt_sigprocmask");
    try {
        std::thread{[] {}}.join();
    } catch (const std::system_error& e) {
        errno = e.code().value();
        need(false, "another thread");
    }
    int ends[2];
    need(::pipe2(ends, O_CLOEXEC) == 0, "pipe2");
    for (const int end : ends)
        ::close(end);
    int poller = ::epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0 && (errno == ENOSYS || errno == EINVAL))
        poller = ::epoll_create(1);  // as Asio does
    need(poller >= 0, "epoll_create1");
    const bool controls = exists(::epoll_ctl(poller, EPOLL_CTL_ADD, -1, &event));
    const bool waits = ::epoll_wait(poller, &event, 1, 0) == 0;
    const int error = errno;
    ::close(poller);
    errno = error;
    need(controls, "epoll_ctl");
    need(waits, "epoll_wait");
    need(exists(::fcntl(-1, F_GETFD)), "fcntl");
    need(exists(::ioctl(-1, FIONBIO, &word)), "ioctl");
    need(exists(::read(-1, &byte, 1)), "read");
    need(exists(::send(-1, &byte, 1, 0)), "sendto");
    need(exists(::recv(-1, &byte, 1, 0)), "recvfrom");
    const ::msghdr message{};
    need(exists(::sendmsg(-1, &message, 0)), "sendmsg");
}
