// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/refused.hpp"
#include <nbd/concepts/backend.hpp>
#include <nbd/io/send_file.hpp>

#include <array>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

using nbd::io::send_file_now;
using namespace nbd_test;

namespace {

class descriptor {
public:
    explicit descriptor(int fd) : fd_{fd} { REQUIRE(fd >= 0); }
    descriptor(descriptor&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
    ~descriptor() { close(); }
    void close()
    {
        if (fd_ >= 0)
            ::close(std::exchange(fd_, -1));
    }
    operator int() const { return fd_; }

private:
    int fd_;
};

descriptor file_of(const bytes& content)
{
    descriptor file{::memfd_create("nbd", MFD_CLOEXEC)};
    REQUIRE(::write(file, content.data(), content.size())
            == static_cast<::ssize_t>(content.size()));
    return file;
}

/// A model of the session's lent_data for send_file_now.
struct part {
    nbd::file_range file;
    std::size_t length;
};

struct connected {
    connected()
    {
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        REQUIRE(::fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
        REQUIRE(::fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
    }
    ~connected()
    {
        for (const int end : ends)
            if (end >= 0)
                ::close(end);
    }
    /// All bytes that have arrived.
    bytes arrived()
    {
        bytes all;
        std::array<std::byte, 65536> piece;
        for (;;) {
            const auto n = ::read(ends[1], piece.data(), piece.size());
            if (n <= 0)
                return all;
            all.insert(all.end(), piece.begin(), piece.begin() + n);
        }
    }
    void leave() { ::close(std::exchange(ends[1], -1)); }
    int ends[2] = {-1, -1};
};

bytes cut(const bytes& from, std::size_t at, std::size_t n)
{
    const auto begin = from.begin() + static_cast<std::ptrdiff_t>(at);
    return {begin, begin + static_cast<std::ptrdiff_t>(n)};
}

bool pipe_signal_blocked()
{
    ::sigset_t now;
    REQUIRE(::pthread_sigmask(SIG_BLOCK, nullptr, &now) == 0);
    return ::sigismember(&now, SIGPIPE) == 1;
}
void block_pipe_signal(int how)
{
    ::sigset_t pipe;
    ::sigemptyset(&pipe);
    ::sigaddset(&pipe, SIGPIPE);
    REQUIRE(::pthread_sigmask(how, &pipe, nullptr) == 0);
}
bool pipe_signal_pending()
{
    ::sigset_t pending;
    REQUIRE(::sigpending(&pending) == 0);
    return ::sigismember(&pending, SIGPIPE) == 1;
}

// Counts signals, so that a signal fails the test and does not end the program.
volatile std::sig_atomic_t signals = 0;
class counting_pipe_signals {
public:
    counting_pipe_signals()
    {
        signals = 0;
        struct sigaction count {};
        count.sa_handler = [](int) { signals = signals + 1; };
        REQUIRE(::sigaction(SIGPIPE, &count, &before_) == 0);
    }
    ~counting_pipe_signals() { ::sigaction(SIGPIPE, &before_, nullptr); }

private:
    struct sigaction before_ {};
};

/// On a new thread, because the library keeps the state of signals for each thread.
template <class F>
void on_a_thread(F f)
{
    std::thread{f}.join();
}

}  // namespace

static_assert(!nbd::io::socket<int>);

TEST_CASE("io/send_file: a part of a file is sent, and the file's position does not change")
{
    const auto content = pattern(20'000);
    const auto file = file_of(content);
    ::lseek(file, 5, SEEK_SET);
    connected c;
    const auto [error, n] = send_file_now(c.ends[0], part{{file, 1000}, 7000});
    CHECK_FALSE(error);
    CHECK(n == 7000);
    CHECK((c.arrived() == cut(content, 1000, 7000)));
    CHECK(::lseek(file, 0, SEEK_CUR) == 5);
}

TEST_CASE("io/send_file: the requested number of bytes is sent from a pipe")
{
    const auto content = pattern(20'000);
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const descriptor out{ends[0]};
    const descriptor in{ends[1]};
    REQUIRE(::write(in, content.data(), content.size()) == static_cast<::ssize_t>(content.size()));
    connected c;
    for (const std::size_t n : {7000U, 13'000U}) {
        const auto [error, sent] = send_file_now(c.ends[0], part{{out, nbd::io::next_in_pipe}, n});
        CHECK_FALSE(error);
        CHECK(sent == n);
    }
    CHECK((c.arrived() == content));
}

TEST_CASE("io/send_file: at the end of a file the rest is sent, then eof")
{
    const auto content = pattern(5000);
    const auto file = file_of(content);
    connected c;
    const auto [error, n] = send_file_now(c.ends[0], part{{file, 4000}, 7000});
    CHECK_FALSE(error);
    CHECK(n == 1000);
    for (const std::uint64_t at : {5000U, 5001U, 1U << 30}) {
        const auto [at_end, none] = send_file_now(c.ends[0], part{{file, at}, 100});
        CHECK(at_end == boost::asio::error::eof);
        CHECK(none == 0);
    }
    CHECK((c.arrived() == cut(content, 4000, 1000)));
}

TEST_CASE("io/send_file: a full socket would block, and no byte is lost or sent twice")
{
    const auto content = pattern(3 << 20);
    const auto file = file_of(content);
    connected c;
    bytes arrived;
    std::size_t sent = 0;
    int full = 0;
    while (sent != content.size()) {
        const auto [error, n] = send_file_now(c.ends[0], part{{file, sent}, content.size() - sent});
        if (error) {
            REQUIRE(error == boost::asio::error::would_block);
            REQUIRE(n == 0);
            ++full;
            arrived = std::move(arrived) + c.arrived();
            REQUIRE(arrived.size() == sent);
        } else {
            REQUIRE(n != 0);
            sent += n;
        }
    }
    arrived = std::move(arrived) + c.arrived();
    CHECK(full != 0);
    CHECK((arrived == content));
}

TEST_CASE("io/send_file: a closed peer is an error without a signal")
{
    const auto file = file_of(pattern(5000));
    const counting_pipe_signals counting;
    on_a_thread([&] {
        block_pipe_signal(SIG_UNBLOCK);
        connected c;
        c.leave();
        for (int again = 0; again < 3; ++again) {
            const auto [error, n] = send_file_now(c.ends[0], part{{file, 0}, 100});
            CHECK(error == boost::asio::error::broken_pipe);
            CHECK(n == 0);
            CHECK(signals == 0);
            CHECK_FALSE(pipe_signal_pending());
            CHECK_FALSE(pipe_signal_blocked());  // unchanged
        }
    });
    CHECK(signals == 0);
}

TEST_CASE(
    "io/send_file: a closed peer is no signal if the thread blocks SIGPIPE, which stays blocked")
{
    const auto file = file_of(pattern(5000));
    const counting_pipe_signals counting;
    on_a_thread([&] {
        block_pipe_signal(SIG_BLOCK);
        connected c;
        c.leave();
        for (int again = 0; again < 3; ++again) {
            const auto [error, n] = send_file_now(c.ends[0], part{{file, 0}, 100});
            CHECK(error == boost::asio::error::broken_pipe);
            CHECK(pipe_signal_blocked());
        }
    });
    CHECK(signals == 0);
}

TEST_CASE("io/send_file: a closed peer is no signal if SIGPIPE is blocked later")
{
    const auto file = file_of(pattern(5000));
    const counting_pipe_signals counting;
    on_a_thread([&] {
        block_pipe_signal(SIG_UNBLOCK);
        connected c;
        c.leave();
        std::ignore = send_file_now(c.ends[0], part{{file, 0}, 100});
        block_pipe_signal(SIG_BLOCK);
        const auto [error, n] = send_file_now(c.ends[0], part{{file, 0}, 100});
        CHECK(error == boost::asio::error::broken_pipe);
        CHECK(pipe_signal_blocked());
    });
    CHECK(signals == 0);
}

TEST_CASE("io/send_file: a successful send does not change the thread's signals")
{
    const auto file = file_of(pattern(5000));
    const counting_pipe_signals counting;
    on_a_thread([&] {
        block_pipe_signal(SIG_UNBLOCK);
        connected c;
        CHECK(std::get<1>(send_file_now(c.ends[0], part{{file, 0}, 100})) == 100);
        CHECK_FALSE(pipe_signal_blocked());
        ::pthread_kill(::pthread_self(), SIGPIPE);
        CHECK(signals == 1);
    });
}

TEST_CASE("io/send_file: any other error is the system's")
{
    const auto file = file_of(pattern(5000));
    connected c;
    const auto [no_file, none] = send_file_now(c.ends[0], part{{-1, 0}, 100});
    CHECK(no_file == boost::system::error_code{EBADF, boost::system::system_category()});
    CHECK(none == 0);
    const auto [no_socket, nothing] = send_file_now(-1, part{{file, 0}, 100});
    CHECK(no_socket == boost::system::error_code{EBADF, boost::system::system_category()});
    CHECK(nothing == 0);
}

TEST_CASE("io/send_file: where the system refuses sendfile, the part is copied")
{
    const int error = GENERATE(EPERM, ENOSYS, EOPNOTSUPP, EINVAL);
    const auto content = pattern(3 << 20);
    const auto file = file_of(content);
    CHECK(works_refusing({SYS_sendfile}, error, [&] {
        connected c;
        bytes arrived;
        for (std::size_t sent = 0; sent != content.size();) {
            const auto [failed, n] =
                send_file_now(c.ends[0], part{{file, sent}, content.size() - sent});
            if (failed && failed != boost::asio::error::would_block)
                return false;
            sent += n;
            arrived = std::move(arrived) + c.arrived();
        }
        const auto [at_end, none] = send_file_now(c.ends[0], part{{file, content.size()}, 100});
        c.leave();
        const auto [gone, nothing] = send_file_now(c.ends[0], part{{file, 0}, 100});
        return arrived == content && at_end == boost::asio::error::eof
            && gone == boost::asio::error::broken_pipe;
    }));
}
