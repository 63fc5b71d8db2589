// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/owned_descriptor.hpp>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

namespace nbd {

/// Makes a socket of two descriptors, such as a pair of pipes: a thread copies what can be read
/// from `in` to a socket, and what comes from the socket to `out`. It holds at most 64 KiB in each
/// direction and then waits for the receiver.
///
/// The end of `in` becomes the end of what the other end of the socket receives. The thread ends,
/// and closes all three, when the other end of the socket is closed or nothing reads `out` any
/// more. Meanwhile the descriptors do not block (O_NONBLOCK).
/// *Lifetime*: the destructor waits until the other end of the socket is closed and `out` has taken
/// all, or has taken nothing for `patience`.
class descriptor_relay {
public:
    /// *Errors*: std::system_error if the system has no more threads.
    descriptor_relay(owned_descriptor in, owned_descriptor out, owned_descriptor socket,
                     std::chrono::milliseconds patience = std::chrono::seconds{5})
        : in_{std::move(in)}, out_{std::move(out)}, socket_{std::move(socket)},
          patience_{static_cast<int>(patience.count())}, thread_{[this] { run(); }}
    {
    }
    descriptor_relay(const descriptor_relay&) = delete;
    descriptor_relay& operator=(const descriptor_relay&) = delete;
    ~descriptor_relay() { thread_.join(); }

private:
    /// A descriptor that does not block while this object lives.
    class unblocked {
    public:
        explicit unblocked(owned_descriptor fd) : fd_{std::move(fd)}
        {
            ::fcntl(fd_.get(), F_SETFL, flags_ | O_NONBLOCK);
        }
        unblocked(const unblocked&) = delete;
        unblocked& operator=(const unblocked&) = delete;
        ~unblocked() { ::fcntl(fd_.get(), F_SETFL, flags_); }
        [[nodiscard]] int get() const noexcept { return fd_.get(); }

    private:
        owned_descriptor fd_;
        const int flags_ = ::fcntl(fd_.get(), F_GETFL);
    };

    /// One direction.
    class flow {
    public:
        [[nodiscard]] bool empty() const noexcept { return begin_ == end_; }
        /// Nothing more can be read.
        [[nodiscard]] bool ended() const noexcept { return ended_; }
        void end() noexcept
        {
            ended_ = true;
            begin_ = end_;
        }
        void read_from(int fd) noexcept
        {
            const auto n = ::read(fd, bytes_.data(), bytes_.size());
            if (n < 0 && is_temporary(errno))
                return;
            begin_ = 0;
            end_ = n > 0 ? static_cast<std::size_t>(n) : 0;
            ended_ = n <= 0;
        }
        /// *Returns* false if the receiver is gone.
        [[nodiscard]] bool write_to(int fd) noexcept
        {
            const auto n = ::write(fd, bytes_.data() + begin_, end_ - begin_);
            if (n < 0)
                return is_temporary(errno);
            begin_ += static_cast<std::size_t>(n);
            return true;
        }

    private:
        [[nodiscard]] static bool is_temporary(int error) noexcept
        {
            return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
        }

        std::array<std::byte, std::size_t{64} << 10> bytes_;
        std::size_t begin_ = 0;
        std::size_t end_ = 0;
        bool ended_ = false;
    };

    void run() noexcept
    {
        // No signal of the program is handled here, and SIGPIPE of a write is only an error.
        ::sigset_t all;
        sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, nullptr);

        const unblocked in{std::move(in_)};
        const unblocked out{std::move(out_)};
        const unblocked socket{std::move(socket_)};
        const auto when = [](bool condition, int event) {
            return static_cast<short>(condition ? event : 0);
        };
        constexpr int gone = POLLERR | POLLHUP | POLLNVAL;
        bool closed = false;  // the other end of the socket
        for (;;) {
            const bool reads = !requests_.ended() && requests_.empty();
            const bool receives = !replies_.ended() && replies_.empty();
            ::pollfd look[] = {
                {.fd = reads ? in.get() : -1, .events = POLLIN, .revents = 0},
                {.fd = out.get(), .events = when(!replies_.empty(), POLLOUT), .revents = 0},
                {.fd = receives || !requests_.empty() || !closed ? socket.get() : -1,
                 .events =
                     static_cast<short>(when(receives, POLLIN) | when(!requests_.empty(), POLLOUT)),
                 .revents = 0}};
            const int ready = ::poll(look, 3, closed || replies_.ended() ? patience_ : -1);
            if (ready < 0 && errno == EINTR)
                continue;
            if (ready <= 0 || (look[1].revents & gone) != 0)
                return;
            closed = closed || (look[2].revents & gone) != 0;
            if (look[0].revents != 0)
                requests_.read_from(in.get());
            if (look[1].revents != 0 && !replies_.write_to(out.get()))
                return;
            if ((look[2].revents & (POLLOUT | gone)) != 0 && !requests_.empty()
                && !requests_.write_to(socket.get()))
                requests_.end();  // replies may still come
            if ((look[2].revents & (POLLIN | gone)) != 0 && receives)
                replies_.read_from(socket.get());
            if (requests_.ended() && requests_.empty() && !std::exchange(told_end_, true))
                ::shutdown(socket.get(), SHUT_WR);
            if (replies_.ended() && replies_.empty())
                return;
        }
    }

    owned_descriptor in_;
    owned_descriptor out_;
    owned_descriptor socket_;
    flow requests_;
    flow replies_;
    bool told_end_ = false;
    const int patience_;  ///< milliseconds
    std::thread thread_;  // last: it uses the others
};

}  // namespace nbd
