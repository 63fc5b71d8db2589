// SPDX-License-Identifier: MIT
#include "backend/file_support.hpp"
#include "catch.hpp"
#include <nbd/backend/opened_file.hpp>

#include <sys/mount.h>

using namespace nbd_test;
using file = nbd::opened_file<nbd::posix_file>;
using Catch::Matchers::ContainsSubstring;
using nbd::file_settings;

namespace {
/// The error text for a path that cannot be opened. Checks that no descriptor stays open.
template <class File = file>
std::string refusal(const std::string& path, const file_settings& s = {})
{
    const auto before = open_files();
    std::string said = "opened";
    try {
        File{path, s};
    } catch (const std::system_error& e) {
        said = e.what();
        CHECK(e.code());
        CHECK_THAT(said, ContainsSubstring("nbd: " + path + ": expected "));
    }
    CHECK(open_files() == before);
    return said;
}
struct no_room : nbd::posix_file {
    static int truncate(int, std::uint64_t) noexcept { return errno = ENOSPC, -1; }
};
struct no_direct : nbd::posix_file {
    static int open(const char* path, int flags, bool direct) noexcept
    {
        return direct ? (errno = EINVAL, -1) : nbd::posix_file::open(path, flags, false);
    }
    static int make_direct(int) noexcept { return errno = EINVAL, -1; }
};
/// A system without /proc/self/fd.
struct opens_once : nbd::posix_file {
    static int open(const char* path, int flags, bool direct) noexcept
    {
        return std::string_view{path}.starts_with("/proc/")
            ? (errno = ENOENT, -1)
            : nbd::posix_file::open(path, flags, direct);
    }
};
struct direct_of_4096 : nbd::posix_file {
    static int facts(int file, nbd::file_facts& to) noexcept
    {
        const int done = nbd::posix_file::facts(file, to);
        to.direct_offset = to.direct_memory = 4096;
        return done;
    }
    static int open(const char* path, int flags, bool) noexcept
    {
        return nbd::posix_file::open(path, flags, false);
    }
    static int make_direct(int) noexcept { return 0; }
};
struct no_such_facts : direct_of_4096 {
    static int facts(int file, nbd::file_facts& to) noexcept
    {
        const int done = nbd::posix_file::facts(file, to);
        to.direct_offset = to.direct_memory = 0;
        return done;
    }
};
}  // namespace

TEST_CASE("backend/opened_file: opens an existing file, and can be moved")
{
    const folder here;
    make_file(here / "file", 12345);
    const auto before = open_files();
    {
        file one{here / "file", {}};
        CHECK(one.facts().size == 12345);
        CHECK((::fcntl(one.descriptor(), F_GETFL) & O_ACCMODE) == O_RDWR);
        const int descriptor = one.descriptor();
        file other{std::move(one)};
        CHECK(other.descriptor() == descriptor);
        CHECK(one.descriptor() == -1);
        file third{here / "file", {.read_only = true, .lock = nbd::file_lock::off}};
        CHECK((::fcntl(third.descriptor(), F_GETFL) & O_ACCMODE) == O_RDONLY);
        third = std::move(other);
        CHECK(third.descriptor() == descriptor);
        CHECK_FALSE(third.settings().read_only);
        CHECK_FALSE(third.abilities().read_only);
    }
    CHECK(open_files() == before);
}

TEST_CASE("backend/opened_file: a writable file has a witness: the same file opened again")
{
    const folder here;
    make_file(here / "file", 4096);
    file one{here / "file", {}};
    const int witness = one.witness();
    CHECK(witness != one.descriptor());
    CHECK((::fcntl(witness, F_GETFL) & O_ACCMODE) == O_RDONLY);
    CHECK((::fcntl(witness, F_GETFD) & FD_CLOEXEC) != 0);
    // It was opened again, not duplicated by dup(): it has its own file offset.
    CHECK(::lseek(one.descriptor(), 77, SEEK_SET) == 77);
    CHECK(::lseek(witness, 0, SEEK_CUR) == 0);
    struct ::stat a {
    }, b{};
    CHECK(::fstat(one.descriptor(), &a) == 0);
    CHECK(::fstat(witness, &b) == 0);
    CHECK((a.st_dev == b.st_dev && a.st_ino == b.st_ino));
    file other{std::move(one)};
    CHECK(other.witness() == witness);
    file third{here / "file", {.read_only = true, .lock = nbd::file_lock::off}};
    CHECK(third.witness() == third.descriptor());  // a read-only file needs no witness
    third = std::move(other);
    CHECK(third.witness() == witness);
    const nbd::opened_file<opens_once> without{here / "file", {.lock = nbd::file_lock::off}};
    CHECK(without.witness() == without.descriptor());
}

TEST_CASE("backend/opened_file: creates a missing file, once")
{
    const folder here;
    const auto path = here / "file";
    CHECK(file{path, {.create = 3 * gib}}.facts().size == 3 * gib);
    CHECK(std::filesystem::file_size(path) == 3 * gib);
    CHECK(stored(path) < mib);
    std::ofstream{path, std::ios::in} << "kept";
    CHECK(file{path, {.create = 3 * gib}}.facts().size == 3 * gib);
    std::string start(4, ' ');
    std::ifstream{path}.read(start.data(), 4);
    CHECK(start == "kept");
    CHECK(refusal(path, {.create = 3 * gib + 1})
          == "nbd: " + path
              + ": expected no file, or a file of 3221225473 bytes; it has 3221225472 bytes: "
              + std::generic_category().message(EEXIST));
    CHECK(std::filesystem::file_size(path) == 3 * gib);
    CHECK(file{here / "empty", {.create = 0}}.facts().size == 0);
    CHECK(file{path, {.read_only = true, .create = 3 * gib}}.facts().size == 3 * gib);
}

TEST_CASE("backend/opened_file: an error names the path and what was expected")
{
    const folder here;
    REQUIRE(::mkfifo((here / "pipe").c_str(), 0600) == 0);
    for (const auto* name : {"pipe", "."})
        CHECK_THAT(refusal(here / name), ContainsSubstring("a regular file or a block device"));
    CHECK_THAT(refusal("/dev/null"), ContainsSubstring("a regular file or a block device"));
    CHECK_THAT(refusal(here / "nothing"), ContainsSubstring("a file to read and write: No such"));
    CHECK_THAT(refusal(here / "nothing", {.read_only = true}),
               ContainsSubstring("a file to read: No such"));
    CHECK_THAT(refusal(here / "nothing", {.read_only = true, .create = 5}),
               ContainsSubstring("a file to read: No such"));
    CHECK_THAT(refusal(here / "no/where", {.create = 5}),
               ContainsSubstring("a path where a file can be created: No such"));
    CHECK_FALSE(std::filesystem::exists(here / "nothing"));
}

TEST_CASE("backend/opened_file: a file that could not be created completely is removed")
{
    const folder here;
    CHECK_THAT(refusal(here / "file", {.create = ~std::uint64_t{0}}),
               ContainsSubstring("space for a new file of 18446744073709551615 bytes"));
    CHECK_THAT(refusal<nbd::opened_file<no_room>>(here / "file", {.create = 5}),
               ContainsSubstring("space for a new file of 5 bytes: No space"));
    CHECK_THAT(
        refusal<nbd::opened_file<direct_of_4096>>(here / "file", {.direct = true, .create = 6000}),
        ContainsSubstring("a multiple of 4096 bytes; it has 6000"));
    CHECK_FALSE(std::filesystem::exists(here / "file"));
    // an existing file is not removed
    make_file(here / "file", 6000);
    CHECK_THAT(refusal<nbd::opened_file<direct_of_4096>>(here / "file", {.direct = true}),
               ContainsSubstring("a multiple of 4096 bytes; it has 6000"));
    CHECK(std::filesystem::file_size(here / "file") == 6000);
}

TEST_CASE("backend/opened_file: reports a file system without direct I/O")
{
    const folder here;
    make_file(here / "file", 4096);
    for (const auto& said :
         {refusal<nbd::opened_file<no_direct>>(here / "file", {.direct = true}),
          refusal<nbd::opened_file<no_such_facts>>(here / "file", {.direct = true})})
        CHECK_THAT(said, ContainsSubstring("a file system with direct I/O"));
    for (const auto& said :
         {refusal<nbd::opened_file<no_direct>>(here / "new", {.direct = true, .create = 4096}),
          refusal<nbd::opened_file<no_such_facts>>(here / "new", {.direct = true, .create = 4096})})
        CHECK_THAT(said, ContainsSubstring("a file system with direct I/O"));
    CHECK_FALSE(std::filesystem::exists(here / "new"));
    CHECK(nbd::opened_file<no_such_facts>{here / "file", {}}.facts().size == 4096);
}

TEST_CASE("backend/opened_file: no file is left on a file system without direct I/O")
{
    const folder here;
    if (::mount("nbd", here.path().c_str(), "ramfs", 0, nullptr) != 0)
        NBD_SKIP("no ramfs can be mounted here");
    struct unmounted {
        const folder& where;
        ~unmounted() { ::umount2(where.path().c_str(), MNT_DETACH); }
    } const guard{here};
    CHECK_THAT(refusal(here / "file", {.direct = true, .create = 4096}),
               ContainsSubstring("a file system with direct I/O"));
    CHECK_FALSE(std::filesystem::exists(here / "file"));
}

TEST_CASE("backend/opened_file: a new file for direct I/O is opened with O_DIRECT")
{
    const folder here;
    std::optional<file> made;
    try {
        made.emplace(here / "file", file_settings{.direct = true, .create = 64 * kib});
    } catch (const std::system_error& e) {
        NBD_SKIP(e.what());
    }
    CHECK((::fcntl(made->descriptor(), F_GETFL) & O_DIRECT) != 0);
}
