// SPDX-License-Identifier: MIT
#include "backend/file_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/backend/posix_file.hpp>

#include <atomic>
#include <bit>
#include <chrono>
#include <csignal>
#include <thread>

#include <pthread.h>

using nbd::posix_file;
using namespace nbd_test;

namespace {
struct opened {
    int file;
    explicit opened(const std::string& path, int flags = O_RDWR)
        : file{posix_file::open(path.c_str(), flags, false)}
    {
        REQUIRE(file >= 0);
    }
    ~opened() { posix_file::close(file); }
};
}  // namespace

TEST_CASE("backend/posix_file: only files and block devices hold data")
{
    const folder here;
    make_file(here / "file", 10);
    REQUIRE(::mkfifo((here / "pipe").c_str(), 0600) == 0);
    CHECK(posix_file::holds_data((here / "file").c_str()) == 1);
    CHECK(posix_file::holds_data((here / "pipe").c_str()) == 0);
    CHECK(posix_file::holds_data(here.path().c_str()) == 0);
    CHECK(posix_file::holds_data("/dev/null") == 0);
    CHECK(posix_file::holds_data((here / "nothing").c_str()) == -1);
    CHECK(errno == ENOENT);
}

TEST_CASE("backend/posix_file: the facts of a file")
{
    const folder here;
    make_file(here / "file", 12345);
    const opened o{here / "file"};
    nbd::file_facts facts;
    REQUIRE(posix_file::facts(o.file, facts) == 0);
    CHECK(facts.regular);
    CHECK_FALSE(facts.device);
    CHECK_FALSE(facts.rotational);
    CHECK(facts.discards);
    CHECK(facts.size == 12345);
    CHECK(facts.sector == 1);
    CHECK(std::has_single_bit(facts.preferred));
    CHECK(facts.preferred >= 4096);
    CHECK(facts.direct_offset <= 65536);
    CHECK(posix_file::size(o.file) == 12345);
    CHECK((::fcntl(o.file, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(posix_file::facts(-1, facts) == -1);
    CHECK(errno == EBADF);
}

TEST_CASE("backend/posix_file: reads, writes, syncs and truncates")
{
    const folder here;
    const opened o{here / "file", O_RDWR | O_CREAT};
    const auto data = pattern(1000);
    CHECK(posix_file::write(o.file, data.data(), 1000, 5000) == 1000);
    const auto durable = posix_file::write_durably(o.file, data.data(), 10, 5995);
    CHECK((durable == 10 || (durable < 0 && (errno == EOPNOTSUPP || errno == ENOTSUP))));
    CHECK(posix_file::sync(o.file) == 0);
    CHECK((posix_file::loss(o.file) == 0 || errno == ENOTSUP));
    CHECK(posix_file::loss(-1) == -1);
    CHECK(posix_file::sync_directory(here.path()) == 0);
    CHECK(posix_file::sync_directory(here / "nothing") == -1);
    CHECK(errno == ENOENT);
    bytes to(995);
    CHECK(posix_file::read(o.file, to.data(), 995, 5000) == 995);
    CHECK(shown(to) == shown(std::span{data}.first(995)));
    CHECK(posix_file::truncate(o.file, 100) == 0);
    CHECK(posix_file::size(o.file) == 100);
    CHECK(posix_file::read(o.file, to.data(), 995, 5000) == 0);
    CHECK(posix_file::will_need(o.file, 0, 100) == 0);
    CHECK(posix_file::will_need(-1, 0, 100) == -1);
    CHECK(errno == EBADF);
}

TEST_CASE("backend/posix_file: calls for block devices fail on files")
{
    const folder here;
    make_file(here / "file", 4096);
    const opened o{here / "file"};
    CHECK(posix_file::discard(o.file, 0, 4096) == -1);
    CHECK((errno == ENOTTY || errno == ENOTSUP));
    CHECK(posix_file::zero_device(o.file, 0, 4096) == -1);
    CHECK((errno == ENOTTY || errno == ENOTSUP));
}

TEST_CASE("backend/posix_file: a call that a signal cuts short is made again")
{
    // The only call here that a test can interrupt: opening a pipe waits for its other end.
    const folder here;
    const auto path = here / "pipe";
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    static std::atomic<int> signals = 0;
    struct ::sigaction count = {}, before = {};
    count.sa_handler = [](int) { ++signals; };
    REQUIRE(::sigaction(SIGUSR1, &count, &before) == 0);
    std::atomic<int> file = -2;
    std::thread reader{[&] { file = posix_file::open(path.c_str(), O_RDONLY, false); }};
    // A sanitizer may delay signals until the call has returned, so this is limited.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{2};
    const auto in_time = [&] { return std::chrono::steady_clock::now() < deadline; };
    while (signals < 10 && file == -2 && in_time()) {
        const int had = signals;
        ::pthread_kill(reader.native_handle(), SIGUSR1);
        while (signals == had && in_time())
            std::this_thread::yield();
    }
    CHECK(file == -2);
    const int writer = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    reader.join();
    CHECK(file >= 0);
    ::close(writer);
    posix_file::close(file);
    ::sigaction(SIGUSR1, &before, nullptr);
}
