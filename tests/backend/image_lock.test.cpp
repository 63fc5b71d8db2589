// SPDX-License-Identifier: MIT
#include "backend/file_support.hpp"
#include "catch.hpp"
#include "support/refused.hpp"
#include <nbd/backend/image_lock.hpp>

using nbd::file_lock;
using nbd::file_settings;
using namespace nbd_test;

namespace {

using file = nbd::opened_file<nbd::posix_file>;

/// The bytes from 0 to 299 that other open files have locked.
std::vector<int> locked_bytes(const std::string& path)
{
    const int other = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE(other >= 0);
    std::vector<int> all;
    for (unsigned at = 0; at != 300; ++at)
        if (nbd::posix_file::is_byte_locked(other, at) == 1)
            all.push_back(static_cast<int>(at));
    ::close(other);
    return all;
}
bool opens(const std::string& path, const file_settings& s)
{
    try {
        const file opened{path, s};
        return true;
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::device_or_resource_busy);
        return false;
    }
}

constexpr file_settings writer{};
constexpr file_settings reader{.read_only = true};
constexpr file_settings sharing_writer{.lock = file_lock::shared};
constexpr file_settings sharing_reader{.read_only = true, .lock = file_lock::shared};
constexpr file_settings unlocked{.lock = file_lock::off};

}  // namespace

TEST_CASE("backend/image_lock: the locks are at the positions of qemu's image locking")
{
    using list = std::vector<int>;
    const folder here;
    make_file(here / "disk", mib);
    const auto locked_by = [&](const file_settings& s) {
        const file opened{here / "disk", s};
        CHECK(opened.locked() == (s.lock != file_lock::off));
        return locked_bytes(here / "disk");
    };
    CHECK(locked_by(writer) == list{100, 101, 103, 201, 203});
    CHECK(locked_by(reader) == list{100, 201, 203});
    CHECK(locked_by(sharing_writer) == list{100, 101, 103});
    CHECK(locked_by(sharing_reader) == list{100});
    CHECK(locked_by(unlocked).empty());
    CHECK(locked_bytes(here / "disk").empty());
}

TEST_CASE("backend/image_lock: programs that deny each other's use exclude each other")
{
    const folder here;
    make_file(here / "disk", mib);
    const auto path = here / "disk";
    const auto beside = [&](const file_settings& first, const file_settings& second) {
        const file opened{path, first};
        const bool works = opens(path, second);
        CHECK(works == opens(path, second));  // a refused one leaves nothing locked
        return works;
    };
    CHECK_FALSE(beside(writer, writer));
    CHECK_FALSE(beside(writer, reader));
    CHECK_FALSE(beside(reader, writer));
    CHECK(beside(reader, reader));
    CHECK(beside(sharing_writer, sharing_writer));
    CHECK(beside(sharing_writer, sharing_reader));
    CHECK_FALSE(beside(sharing_writer, writer));
    CHECK_FALSE(beside(sharing_writer, reader));
    CHECK_FALSE(beside(reader, sharing_writer));
    CHECK(beside(reader, sharing_reader));
    CHECK(beside(writer, unlocked));
    CHECK(beside(unlocked, writer));
}

TEST_CASE("backend/image_lock: a moved file stays locked, and a file is unlocked when it is closed")
{
    const folder here;
    std::optional<file> first{std::in_place, here / "disk", file_settings{.create = mib}};
    std::optional<file> second{std::move(*first)};
    first.reset();
    CHECK(second->locked());
    CHECK_FALSE(opens(here / "disk", writer));
    second.reset();
    CHECK(opens(here / "disk", writer));
}

TEST_CASE("backend/image_lock: without locks of the system, the file is opened without them")
{
    const int error = GENERATE(EPERM, ENOSYS, EOPNOTSUPP, EINVAL, ENOLCK);
    const folder here;
    make_file(here / "disk", mib);
    CHECK(works_refusing({SYS_fcntl}, error, [&] {
        const file opened{here / "disk", writer};
        return !opened.locked();
    }));
}
