// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/refused.hpp"
#include <nbd/transport/unix_transport.hpp>

#include <boost/asio/io_context.hpp>

#include <array>
#include <barrier>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <tuple>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

using nbd::unix_transport;
using nbd_test::works_refusing;
using std::string_literals::operator""s;
namespace asio = boost::asio;
namespace fs = std::filesystem;
using acceptor = asio::local::stream_protocol::acceptor;
using endpoint = asio::local::stream_protocol::endpoint;

namespace {

/// A folder that is removed after the test.
struct folder {
    folder()
    {
        auto made = (fs::temp_directory_path() / "nbd-unix-XXXXXX").string();
        REQUIRE(::mkdtemp(made.data()) != nullptr);
        path = made;
    }
    folder(const folder&) = delete;
    folder& operator=(const folder&) = delete;
    ~folder()
    {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
    std::string operator/(const char* name) const { return (path / name).string(); }
    fs::path path;
};

struct listener {
    explicit listener(unix_transport::settings s) : transport{std::move(s)} {}
    std::error_code listen() { return transport.listen(socket); }

    asio::io_context context;
    acceptor socket{context};
    unix_transport transport;
};

bool answers(const std::string& path)
{
    asio::io_context context;
    asio::local::stream_protocol::socket client{context};
    boost::system::error_code failed;
    client.connect(endpoint{path}, failed);
    return !failed;
}
/// Leaves a stale socket file.
void leave_stale(const std::string& path)
{
    asio::io_context context;
    acceptor dead{context, endpoint{path}};
}
::mode_t mode_of(const std::string& path)
{
    struct ::stat there {};
    REQUIRE(::stat(path.c_str(), &there) == 0);
    return there.st_mode & 07777U;
}

}  // namespace

TEST_CASE("transport/unix_transport: listens at its path, and close removes the file")
{
    const folder here;
    listener l{{.path = here / "a"}};
    REQUIRE_FALSE(l.listen());
    CHECK(answers(here / "a"));
    CHECK(l.transport.uri(l.socket.local_endpoint(), "x y")
          == "nbd+unix:///x%20y?socket=" + nbd::protocol::percent_encode(here / "a"));
    l.transport.close();
    CHECK(fs::is_empty(here.path));
    l.transport.close();
}

TEST_CASE("transport/unix_transport: the socket file has the requested mode (L11)")
{
    const folder here;
    for (const ::mode_t mode : {0600U, 0660U, 0666U, 0700U}) {
        for (const ::mode_t mask : {0U, 022U, 0777U}) {
            const auto before = ::umask(mask);
            listener l{{.path = here / "a", .mode = mode}};
            const auto failed = l.listen();
            ::umask(before);
            REQUIRE_FALSE(failed);
            CHECK(mode_of(here / "a") == mode);
            l.transport.close();
        }
    }
}

TEST_CASE("transport/unix_transport: a path that is too long or empty is refused (L10)")
{
    const folder here;
    const auto too_long = here / std::string(200, 'x').c_str();
    listener l{{.path = too_long}};
    CHECK(l.listen() == nbd::errc::path_too_long);
    CHECK_FALSE(l.socket.is_open());
    listener none{{}};
    CHECK(none.listen() == std::errc::invalid_argument);
    CHECK(fs::is_empty(here.path));

    const auto base = (here / "").size();
    listener longest{{.path = here / std::string(107 - base, 'x').c_str()}};
    CHECK_FALSE(longest.listen());
    longest.transport.close();
    listener one_more{{.path = here / std::string(108 - base, 'x').c_str()}};
    CHECK(one_more.listen() == nbd::errc::path_too_long);
}

TEST_CASE("transport/unix_transport: a file that is not a socket is not removed (L10)")
{
    const folder here;
    std::ofstream{here / "file"} << "precious";
    fs::create_directory(here / "folder");
    fs::create_symlink("nowhere", here / "link");
    for (const auto* const name : {"file", "folder", "link"}) {
        listener l{{.path = here / name}};
        CHECK(l.listen() == nbd::errc::not_a_socket);
        CHECK_FALSE(l.socket.is_open());
        l.transport.close();
        CHECK(fs::symlink_status(here / name).type() != fs::file_type::not_found);
    }
    CHECK(fs::file_size(here / "file") == 8);
}

TEST_CASE("transport/unix_transport: a missing folder is the system's error")
{
    const folder here;
    listener l{{.path = here / "no/such"}};
    CHECK(l.listen() == std::errc::no_such_file_or_directory);
    CHECK_FALSE(l.socket.is_open());
}

TEST_CASE("transport/unix_transport: a stale socket is replaced, or refused (L11)")
{
    const folder here;
    leave_stale(here / "a");
    listener careful{{.path = here / "a", .stale = unix_transport::stale_file::refuse}};
    CHECK(careful.listen() == std::errc::address_in_use);
    CHECK(fs::is_socket(here / "a"));
    listener l{{.path = here / "a"}};
    CHECK_FALSE(l.listen());
    CHECK(answers(here / "a"));
}

TEST_CASE("transport/unix_transport: a socket on which a server listens is not replaced (L10)")
{
    const folder here;
    listener first{{.path = here / "a"}};
    REQUIRE_FALSE(first.listen());
    listener second{{.path = here / "a"}};
    CHECK(second.listen() == std::errc::address_in_use);
    second.transport.close();
    CHECK(answers(here / "a"));
}

TEST_CASE("transport/unix_transport: of two servers that start on one path at the same time, one "
          "succeeds (L10)")
{
    const folder here;
    for (int i = 0; i < 200; ++i) {
        if (i % 2 == 0)
            leave_stale(here / "a");
        std::barrier both{2};
        std::array<std::error_code, 2> results;
        std::array<std::optional<listener>, 2> servers;
        {
            std::array<std::jthread, 2> threads;
            for (std::size_t t = 0; t < 2; ++t) {
                servers[t].emplace(unix_transport::settings{.path = here / "a"});
                threads[t] = std::jthread{[&, t] {
                    both.arrive_and_wait();
                    results[t] = servers[t]->listen();
                }};
            }
        }
        const bool first = !results[0];
        REQUIRE(first != !results[1]);
        REQUIRE(results[first ? 1 : 0] == std::errc::address_in_use);
        REQUIRE(answers(here / "a"));
        servers[first ? 0 : 1]->transport.close();
        REQUIRE(fs::is_empty(here.path));
    }
}

TEST_CASE("transport/unix_transport: a file that takes the place of a stale socket is not removed")
{
    const folder here;
    for (int i = 0; i < 300; ++i) {
        leave_stale(here / "a");
        std::ofstream{here / "file"} << "precious";
        std::barrier both{2};
        listener l{{.path = here / "a"}};
        {
            const std::jthread other{[&] {
                both.arrive_and_wait();
                fs::rename(here / "file", here / "a");
            }};
            both.arrive_and_wait();
            std::ignore = l.listen();
        }
        l.transport.close();
        REQUIRE(fs::is_regular_file(here / "a"));
        REQUIRE(fs::file_size(here / "a") == 8);
        fs::remove(here / "a");
        REQUIRE(fs::is_empty(here.path));
    }
}

TEST_CASE("transport/unix_transport: the socket is closed on exec")
{
    const folder here;
    listener l{{.path = here / "a"}};
    REQUIRE_FALSE(l.listen());
    CHECK((::fcntl(l.socket.native_handle(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("transport/unix_transport: chmod(2) is not called if the file already has its mode")
{
    const int error = GENERATE(EPERM, ENOSYS, EOPNOTSUPP, EINVAL);
    const folder here;
    const auto listens = [&] {
        listener l{{.path = here / "a"}};
        const bool failed = static_cast<bool>(l.listen());
        const bool is_private = mode_of(here / "a") == 0600;
        l.transport.close();
        return !failed && is_private;
    };
#ifdef SYS_chmod
    CHECK(works_refusing({SYS_chmod, SYS_fchmodat}, error, listens));
#else
    CHECK(works_refusing({SYS_fchmodat}, error, listens));
#endif
    CHECK(works_refusing({SYS_fchmod}, error, listens));
}

TEST_CASE("transport/unix_transport: close removes only its own file")
{
    const folder here;
    listener first{{.path = here / "a"}};
    REQUIRE_FALSE(first.listen());
    fs::remove(here / "a");
    listener second{{.path = here / "a"}};
    REQUIRE_FALSE(second.listen());
    first.transport.close();
    CHECK(answers(here / "a"));
    second.transport.close();
    CHECK(fs::is_empty(here.path));
}

TEST_CASE("transport/unix_transport: an abstract socket has no file")
{
    const auto path = "\0nbd-abstract-"s + std::to_string(::getpid());
    listener l{{.path = path}};
    REQUIRE_FALSE(l.listen());
    CHECK(answers(path));
    CHECK(l.transport.uri(l.socket.local_endpoint(), "")
          == "nbd+unix:///?socket=%00nbd-abstract-" + std::to_string(::getpid()));
    listener second{{.path = path}};
    CHECK(second.listen() == std::errc::address_in_use);
    l.transport.close();
}

TEST_CASE("transport/unix_transport: the peer is a process and a user")
{
    const folder here;
    listener l{{.path = here / "a"}};
    REQUIRE_FALSE(l.listen());
    asio::local::stream_protocol::socket client{l.context};
    client.connect(endpoint{here / "a"});
    auto accepted = l.socket.accept();
    l.transport.prepare(accepted);
    CHECK(l.transport.peer(accepted).text()
          == "pid " + std::to_string(::getpid()) + " uid " + std::to_string(::getuid()));
}
