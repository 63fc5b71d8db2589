// SPDX-License-Identifier: MIT
// Where the log of nbd-serve --verbose goes.
#pragma once

#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/// Writes lines to stderr without waiting, so that a log delays no client. A line that a pipe, a
/// terminal or a socket cannot take at once is dropped and counted; the number is written when
/// there is room again. SIGPIPE must be ignored.
/// *Thread safety*: any thread.
class log_output {
public:
    log_output()
    {
        struct ::stat about {};
        if (::fstat(STDERR_FILENO, &about) != 0)
            return;
        is_socket_ = S_ISSOCK(about.st_mode);
        may_be_full_ = S_ISFIFO(about.st_mode) || S_ISCHR(about.st_mode);
        // An open file of its own: O_NONBLOCK would change stderr for other processes too.
        if (may_be_full_)
            own_ = ::open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    }
    log_output(const log_output&) = delete;
    log_output& operator=(const log_output&) = delete;
    ~log_output()
    {
        tell_dropped();
        if (own_ >= 0)
            ::close(own_);
    }

    /// Writes `text` and a line feed. A pipe takes PIPE_BUF bytes as a whole or not at all, so a
    /// longer line is cut.
    void line(std::string text)
    {
        text.resize(std::min<std::size_t>(text.size(), PIPE_BUF - 1));
        text += '\n';
        const std::lock_guard lock{mutex_};
        if (!tell_dropped() || !put(text))
            ++dropped_;
    }

private:
    /// *Returns* false if there is something to tell and no room for it.
    bool tell_dropped()
    {
        if (dropped_ == 0)
            return true;
        if (!put("nbd-serve: " + std::to_string(dropped_)
                 + " lines of the log are dropped, because stderr was full\n"))
            return false;
        dropped_ = 0;
        return true;
    }
    bool put(const std::string& text)
    {
        if (is_socket_)
            return ::send(STDERR_FILENO, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                >= 0;
        if (may_be_full_ && own_ < 0) {  // there is no /proc
            ::pollfd room{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
            if (::poll(&room, 1, 0) != 1 || (room.revents & POLLOUT) == 0)
                return false;
        }
        return ::write(own_ >= 0 ? own_ : STDERR_FILENO, text.data(), text.size()) >= 0;
    }

    int own_ = -1;
    bool is_socket_ = false;
    bool may_be_full_ = false;
    std::mutex mutex_;
    std::uint64_t dropped_ = 0;
};
