// SPDX-License-Identifier: MIT
// For tests of backends on files: temporary folders, loop devices, and extents as text.
#pragma once

#include "catch.hpp"
#include <nbd/backend/opened_file.hpp>
#include <nbd/vocabulary/extent_list.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nbd_test {

constexpr std::uint64_t kib = 1 << 10;
constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t gib = 1 << 30;

/// A folder that is removed with its contents.
class folder {
public:
    explicit folder(const std::string& parent = "/tmp") : path_{parent + "/nbd.XXXXXX"}
    {
        if (::mkdtemp(path_.data()) == nullptr)
            throw std::system_error{errno, std::system_category(), path_};
    }
    folder(const folder&) = delete;
    folder& operator=(const folder&) = delete;
    ~folder()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] std::string operator/(const std::string& name) const
    {
        return path_ + '/' + name;
    }
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    std::string path_;
};

/// A file system of 1 MiB mounted on a folder, which is removed with it.
class small_place {
public:
    /// Empty if this is not permitted.
    static std::optional<small_place> make(const folder& at)
    {
        if (::mount("nbd", at.path().c_str(), "tmpfs", 0, "size=1m") != 0)
            return std::nullopt;
        return small_place{at.path()};
    }
    small_place(small_place&& other) noexcept : path_{std::exchange(other.path_, {})} {}
    small_place& operator=(small_place&&) = delete;
    ~small_place()
    {
        if (!path_.empty())
            ::umount2(path_.c_str(), MNT_DETACH);
    }

private:
    explicit small_place(std::string path) : path_{std::move(path)} {}

    std::string path_;
};

/// Where a file is, and how it is read and written.
struct kind {
    std::string place;
    bool direct;
};
inline std::vector<kind> kinds()
{
    return {{"/tmp", false}, {"/tmp", true}, {"/dev/shm", false}, {"/dev/shm", true}};
}
/// A new disk, or empty if there is no direct I/O.
template <class Disk>
std::optional<Disk> disk_of(const folder& here, bool direct, std::uint64_t size)
{
    try {
        return std::optional<Disk>{std::in_place, here / "disk",
                                   nbd::file_settings{.direct = direct, .create = size}};
    } catch (const std::system_error& e) {
        INFO(e.what());
        CHECK(direct);
        return std::nullopt;
    }
}

/// Creates a file of that many bytes, all of them a hole.
inline void make_file(const std::string& path, std::uint64_t size)
{
    std::ofstream{path};
    std::filesystem::resize_file(path, size);
}
/// Bytes of storage that a file uses.
inline std::uint64_t stored(const std::string& path)
{
    struct ::stat about {};
    return ::stat(path.c_str(), &about) == 0 ? static_cast<std::uint64_t>(about.st_blocks) * 512
                                             : 0;
}
inline bool is_all(std::span<const std::byte> memory, int value = 0)
{
    return std::all_of(memory.begin(), memory.end(),
                       [&](std::byte b) { return b == static_cast<std::byte>(value); });
}
inline std::size_t open_files()
{
    const std::filesystem::directory_iterator all{"/proc/self/fd"};
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

/// A loop device on a file. It is removed when it is closed.
class loop_device {
public:
    /// Empty if this is not permitted.
    static std::optional<loop_device> make(const std::string& file, std::uint32_t sector)
    {
        const int control = ::open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        const int disk = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
        std::optional<loop_device> made;
        // Another process may take the free device first.
        for (int attempt = 0; attempt < 20 && !made && control >= 0 && disk >= 0; ++attempt) {
            const int number = ::ioctl(control, LOOP_CTL_GET_FREE);
            if (number < 0)
                break;
            auto path = "/dev/loop" + std::to_string(number);
            const int device = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
            if (device < 0)
                break;
            ::loop_config config{};
            config.fd = static_cast<std::uint32_t>(disk);
            config.block_size = sector;
            config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
            if (::ioctl(device, LOOP_CONFIGURE, &config) == 0)
                made = loop_device{device, std::move(path)};
            else
                ::close(device);
        }
        if (control >= 0)
            ::close(control);
        if (disk >= 0)
            ::close(disk);
        return made;
    }
    loop_device(loop_device&& other) noexcept
        : device_{std::exchange(other.device_, -1)}, path_{std::move(other.path_)}
    {
    }
    loop_device& operator=(loop_device&& other) noexcept
    {
        std::swap(device_, other.device_);
        std::swap(path_, other.path_);
        return *this;
    }
    ~loop_device()
    {
        if (device_ >= 0)
            ::close(device_);
    }
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    loop_device(int device, std::string path) : device_{device}, path_{std::move(path)} {}

    int device_;
    std::string path_;
};

/// Extents as "0..4096 data, 4096..8192 hole".
template <class Disk>
std::string parts(Disk& disk, std::uint64_t offset, std::uint64_t length, std::size_t most = 1000)
{
    nbd::extent_list to;
    to.begin(length, most);
    if (const auto failed = disk.extents(offset, length, to))
        return failed.code.message();
    std::string all;
    for (const auto& e : to.extents()) {
        all += (all.empty() ? "" : ", ") + std::to_string(offset) + ".."
            + std::to_string(offset + e.length)
            + (e.flags == 0       ? " data"
                   : e.flags == 3 ? " hole"
                                  : " ?");
        offset += e.length;
    }
    return all;
}

}  // namespace nbd_test
