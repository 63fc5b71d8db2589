// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/refused.hpp"
#include <nbd/io/file_pipe.hpp>

#include <cstddef>
#include <cstdint>

#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

using nbd::io::file_pipe;
using namespace nbd_test;

namespace {

constexpr std::size_t page = 4096;

struct file {
    explicit file(const bytes& content) : descriptor{::memfd_create("nbd", MFD_CLOEXEC)}
    {
        REQUIRE(descriptor >= 0);
        REQUIRE(::write(descriptor, content.data(), content.size())
                == static_cast<::ssize_t>(content.size()));
    }
    file(const file&) = delete;
    file& operator=(const file&) = delete;
    ~file() { ::close(descriptor); }
    int descriptor;
};

/// Reads `n` bytes from the pipe, which must be there.
bytes out_of(const file_pipe& pipe, std::size_t n)
{
    bytes all(n);
    for (std::size_t at = 0; at != n;) {
        const auto got = ::read(pipe.descriptor(), all.data() + at, n - at);
        REQUIRE(got > 0);
        at += static_cast<std::size_t>(got);
    }
    return all;
}
bytes cut(const bytes& from, std::size_t at, std::size_t n)
{
    const auto begin = from.begin() + static_cast<std::ptrdiff_t>(at);
    return {begin, begin + static_cast<std::ptrdiff_t>(n)};
}

}  // namespace

TEST_CASE("io/file_pipe: parts of a file come out in the order in which they went in")
{
    const auto content = pattern(100 * page);
    const file f{content};
    file_pipe pipe;
    for (int round = 0; round < 3; ++round) {
        pipe.begin();
        REQUIRE(pipe.fill(f.descriptor, 10 * page, 8 * page));
        REQUIRE(pipe.fill(f.descriptor, 3, 1));
        REQUIRE(pipe.fill(f.descriptor, 50 * page + 100, page));
        CHECK(out_of(pipe, 8 * page) == cut(content, 10 * page, 8 * page));
        CHECK(out_of(pipe, 1) == cut(content, 3, 1));
        CHECK(out_of(pipe, page) == cut(content, 50 * page + 100, page));
    }
}

TEST_CASE(
    "io/file_pipe: a range past the end of the file is refused and does not affect later parts")
{
    const auto content = pattern(10 * page);
    const file f{content};
    file_pipe pipe;
    pipe.begin();
    REQUIRE(pipe.fill(f.descriptor, 0, page));
    CHECK_FALSE(pipe.fill(f.descriptor, 9 * page, 2 * page));
    CHECK_FALSE(pipe.fill(f.descriptor, 0, page));  // an incomplete part is before it
    CHECK(out_of(pipe, page) == cut(content, 0, page));
    pipe.begin();
    CHECK_FALSE(pipe.fill(f.descriptor, 10 * page, 1));
    pipe.begin();
    REQUIRE(pipe.fill(f.descriptor, 9 * page, page));
    CHECK(out_of(pipe, page) == cut(content, 9 * page, page));
}

TEST_CASE("io/file_pipe: dropped parts do not come out later")
{
    const auto content = pattern(20 * page);
    const file f{content};
    file_pipe pipe;
    pipe.begin();
    REQUIRE(pipe.fill(f.descriptor, 0, 8 * page));
    pipe.drop();
    pipe.begin();
    REQUIRE(pipe.fill(f.descriptor, 10 * page, page));
    CHECK(out_of(pipe, page) == cut(content, 10 * page, page));
}

TEST_CASE("io/file_pipe: a part that does not fit is refused as a whole")
{
    const auto content = pattern(page);
    const file f{content};
    REQUIRE(::ftruncate(f.descriptor, 64 << 20) == 0);
    file_pipe pipe;
    pipe.begin();
    CHECK_FALSE(pipe.fill(f.descriptor, 0, std::size_t{64} << 20));
    // Each piece of a page uses a page of the pipe, whose size the system limits.
    std::size_t taken = 0;
    while (pipe.fill(f.descriptor, page - 1, 2))
        ++taken;
    CHECK(taken >= 1);
    CHECK(taken <= 128);
    CHECK(out_of(pipe, 1) == cut(content, page - 1, 1));
    const auto rest = out_of(pipe, 2 * taken - 1);
    for (std::size_t at = 0; at != rest.size(); ++at)
        REQUIRE(rest[at] == (at % 2 == 1 ? content.back() : std::byte{0}));
}

TEST_CASE("io/file_pipe: descriptors that cannot be spliced are refused")
{
    file_pipe pipe;
    pipe.begin();
    CHECK_FALSE(pipe.fill(-1, 0, page));
    pipe.begin();
    const int other = ::epoll_create1(EPOLL_CLOEXEC);
    REQUIRE(other >= 0);
    CHECK_FALSE(pipe.fill(other, 0, page));
    ::close(other);
}

TEST_CASE("io/file_pipe: where the system refuses splice, the pipe is made once")
{
    const int error = GENERATE(EPERM, ENOSYS, EOPNOTSUPP, EINVAL);
    const file f{pattern(page)};
    CHECK(works_refusing({SYS_splice}, error, [&] {
        file_pipe pipe;
        for (int round = 0; round < 2; ++round) {
            pipe.begin();
            if (pipe.fill(f.descriptor, 0, page))
                return false;
        }
        return pipe.descriptor() < 0;
    }));
}
