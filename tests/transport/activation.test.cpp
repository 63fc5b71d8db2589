// SPDX-License-Identifier: MIT
// What a service manager passes to a program, and is told by it.
#include "catch.hpp"
#include <nbd/transport/activation.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace activation = nbd::activation;
using names = std::vector<std::string>;

namespace {

constexpr ::pid_t self = 4711;

/// What is wrong with these values; empty: nothing.
std::string complaint(const activation::variables& set)
{
    nbd::failure why;
    CHECK(activation::parse(set, self, why).empty());
    CHECK((!why || why == std::errc::invalid_argument));
    return why.text;
}
names parsed(const activation::variables& set)
{
    nbd::failure why;
    auto found = activation::parse(set, self, why);
    CHECK_FALSE(why);
    return found;
}

/// A receiver of datagrams.
struct receiver {
    explicit receiver(const ::sockaddr_un& at, std::size_t path_length)
    {
        REQUIRE(fd.get() >= 0);
        REQUIRE(::bind(fd.get(), reinterpret_cast<const ::sockaddr*>(&at),
                       static_cast<::socklen_t>(offsetof(::sockaddr_un, sun_path) + path_length))
                == 0);
    }
    [[nodiscard]] std::string take() const
    {
        std::array<char, 256> buffer{};
        const auto n = ::recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        return n < 0 ? "nothing" : std::string{buffer.data(), static_cast<std::size_t>(n)};
    }
    nbd::owned_descriptor fd{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
};
::sockaddr_un address_of(std::string_view path)
{
    ::sockaddr_un at{};
    at.sun_family = AF_UNIX;
    std::memcpy(at.sun_path, path.data(), path.size());
    return at;
}

/// The exit status of a child process, which may change its environment and descriptors.
template <class F>
int in_child(F f)
{
    const auto child = ::fork();
    if (child == 0)
        ::_exit(f());
    int status = -1;
    REQUIRE(child > 0);
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("activation: without the variables, or with those of another process, nothing is passed")
{
    CHECK(parsed({}).empty());
    CHECK(parsed({.pid = "4711"}).empty());
    CHECK(parsed({.count = "2"}).empty());
    CHECK(parsed({.pid = "4712", .count = "2"}).empty());
    CHECK(parsed({.pid = "4712", .count = "nonsense"}).empty());
}

TEST_CASE("activation: each descriptor has its name")
{
    CHECK(parsed({.pid = "4711", .count = "2"}) == names{"", ""});
    CHECK(parsed({.pid = "4711", .count = "1", .names = "nbd-serve.socket"})
          == names{"nbd-serve.socket"});
    CHECK(parsed({.pid = "4711", .count = "3", .names = "a::c"}) == names{"a", "", "c"});
    CHECK(parsed({.pid = "4711", .count = "1", .names = ""}) == names{""});
}

TEST_CASE("activation: a bad value is an error that names its variable and what was expected")
{
    CHECK(complaint({.pid = "me", .count = "1"})
          == "LISTEN_PID: expected a number from 1 to 2147483647, but got \"me\"");
    CHECK(complaint({.pid = "", .count = "1"}).starts_with("LISTEN_PID: "));
    for (const auto* bad : {"", "0", "-1", "1x", " 1", "99999999999", "2147483647"})
        CHECK(complaint({.pid = "4711", .count = bad})
              == "LISTEN_FDS: expected a number from 1 to 2147483644, but got \"" + std::string{bad}
                  + '"');
    CHECK(complaint({.pid = "4711", .count = "2", .names = "a"})
          == "LISTEN_FDNAMES: expected as many names as LISTEN_FDS says, which is 2, separated by "
             "colons, but got \"a\"");
    CHECK(complaint({.pid = "4711", .count = "1", .names = "a:b"}).starts_with("LISTEN_FDNAMES: "));
}

TEST_CASE("activation: the descriptors are closed on exec, and their kind is known")
{
    // Three neighbours, above those of the test program.
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0);
    constexpr int first = 200;
    const int listening = ::socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(::listen(listening, 1) == 0);
    REQUIRE(::dup2(listening, first) == first);
    REQUIRE(::dup2(ends[0], first + 1) == first + 1);
    REQUIRE(::dup2(STDERR_FILENO, first + 2) == first + 2);
    for (const int fd : {ends[0], ends[1], listening})
        ::close(fd);
    {
        nbd::failure why;
        const auto all = activation::own({"a", "b", "c"}, why, first);
        CHECK_FALSE(why);
        REQUIRE(all.size() == 3);
        for (int i = 0; i < 3; ++i) {
            CHECK(all[static_cast<std::size_t>(i)].descriptor.get() == first + i);
            CHECK(::fcntl(first + i, F_GETFD) == FD_CLOEXEC);
        }
        CHECK(all[0].name == "a");
        CHECK(all[0].listens);
        CHECK(all[0].family == AF_INET);
        CHECK(all[1].name == "b");
        CHECK_FALSE(all[1].listens);
        CHECK(all[1].family == AF_UNIX);
        CHECK(all[2].family == 0);

        CHECK(activation::own(names(5), why, first).empty());
        CHECK(why == std::errc::bad_file_descriptor);
        CHECK(why.text
              == "LISTEN_FDS: expected 5 open descriptors from 200 on, but 203 is not open");
        CHECK(::fcntl(first, F_GETFD) == FD_CLOEXEC);  // still open
    }
    CHECK(::fcntl(first, F_GETFD) == -1);
    CHECK(::fcntl(first + 2, F_GETFD) == -1);
}

TEST_CASE("activation: the sockets are taken once, and the variables are removed")
{
    CHECK(in_child([] {
              nbd::failure why;
              if (::dup2(::socket(AF_UNIX, SOCK_STREAM, 0), 3) != 3)
                  return 1;
              ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
              ::setenv("LISTEN_FDS", "1", 1);
              ::setenv("LISTEN_FDNAMES", "disk", 1);
              {
                  auto kept = activation::take_sockets(why, true);
                  if (why || kept.size() != 1 || kept[0].name != "disk")
                      return 2;
                  if (::getenv("LISTEN_FDS") == nullptr)
                      return 3;
                  kept[0].descriptor.release();
              }
              const auto taken = activation::take_sockets(why);
              if (why || taken.size() != 1 || taken[0].descriptor.get() != 3)
                  return 4;
              for (const auto* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"})
                  if (::getenv(name) != nullptr)
                      return 5;
              return activation::take_sockets(why).empty() && !why ? 0 : 6;
          })
          == 0);
    // Those of a parent process: removed, because they are for nobody here.
    CHECK(in_child([] {
              nbd::failure why;
              ::setenv("LISTEN_PID", std::to_string(::getppid()).c_str(), 1);
              ::setenv("LISTEN_FDS", "1", 1);
              const bool nothing = activation::take_sockets(why).empty() && !why;
              return nothing && ::getenv("LISTEN_PID") == nullptr ? 0 : 1;
          })
          == 0);
}

TEST_CASE("activation: a state is sent in one datagram, to a path or to an abstract address")
{
    const auto path = "/tmp/nbd-notify-" + std::to_string(::getpid());
    {
        const receiver at_path{address_of(path), path.size() + 1};
        CHECK_FALSE(activation::notify_at(path, "READY=1\nSTATUS=1 socket"));
        CHECK(at_path.take() == "READY=1\nSTATUS=1 socket");
        CHECK(at_path.take() == "nothing");
        CHECK(in_child([&] {
                  ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
                  return activation::notify("STOPPING=1") ? 1 : 0;
              })
              == 0);
        CHECK(at_path.take() == "STOPPING=1");
    }
    std::filesystem::remove(path);
    CHECK(activation::notify_at(path, "READY=1") == std::errc::no_such_file_or_directory);

    auto name = "@nbd-notify-" + std::to_string(::getpid());
    auto at = address_of(name);
    at.sun_path[0] = '\0';
    const receiver abstract{at, name.size()};
    CHECK_FALSE(activation::notify_at(name, "READY=1"));
    CHECK(abstract.take() == "READY=1");
}

TEST_CASE("activation: an address that cannot be notified is an error, and none is not")
{
    CHECK(activation::notify_at("vsock:2:1234", "READY=1")
          == std::errc::address_family_not_supported);
    CHECK(activation::notify_at("@", "READY=1") == std::errc::address_family_not_supported);
    CHECK(activation::notify_at('/' + std::string(200, 'x'), "READY=1")
          == nbd::errc::path_too_long);
    CHECK(in_child([] {
              ::unsetenv("NOTIFY_SOCKET");
              if (activation::notify("READY=1"))
                  return 1;
              ::setenv("NOTIFY_SOCKET", "", 1);
              return activation::notify("READY=1") ? 2 : 0;
          })
          == 0);
}
