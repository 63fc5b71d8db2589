// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/image_lock.hpp>
#include <nbd/backend/posix_file.hpp>
#include <nbd/vocabulary/backend_types.hpp>

#include <bit>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>

namespace nbd {

/// How a file or a block device is opened.
struct file_settings {
    /// Opens the file for reading. Clients get a read-only export. Every change fails with EROFS.
    bool read_only = false;
    /// Bypasses the system's page cache (O_DIRECT). The minimum block size becomes the device's,
    /// and the file's size must be a multiple of it.
    bool direct = false;
    /// Size in bytes. A missing file is created with this size, as one hole. An existing file must
    /// have this size.
    std::optional<std::uint64_t> create{};
    /// Locks against other programs. A file on a file system without locks is opened without them;
    /// see opened_file::locked.
    file_lock lock = file_lock::exclusive;
};

/// An open file or block device, with the facts that the system reported when it was opened.
template <class System>
class opened_file {
public:
    /// *Errors*: std::system_error; its text names the path and what was expected there. A file
    /// that was created is removed again.
    opened_file(const std::string& path, const file_settings& s) : settings_{s}
    {
        const bool created = open(path);
        try {
            take_lock(path);
            if (created)
                fill(path);
            if (created && settings_.direct && System::make_direct(file_) != 0)
                refuse_open(errno, path, "direct I/O");
            examine(path);
            if (!settings_.read_only)
                witness_ = System::open(("/proc/self/fd/" + std::to_string(file_)).c_str(),
                                        O_RDONLY, false);
        } catch (...) {
            System::close(file_);
            if (created)
                System::remove(path.c_str());
            throw;
        }
    }
    opened_file(opened_file&& other) noexcept
        : file_{std::exchange(other.file_, -1)}, witness_{std::exchange(other.witness_, -1)},
          settings_{other.settings_}, facts_{other.facts_}, locked_{other.locked_}
    {
    }
    opened_file& operator=(opened_file&& other) noexcept
    {
        std::swap(file_, other.file_);
        std::swap(witness_, other.witness_);
        settings_ = other.settings_;
        facts_ = other.facts_;
        locked_ = other.locked_;
        return *this;
    }
    ~opened_file()
    {
        for (const int file : {file_, witness_})
            if (file >= 0)
                System::close(file);
    }

    [[nodiscard]] int descriptor() const noexcept { return file_; }
    /// A second descriptor of the same file, opened separately, so that the system reports each
    /// failed write-back to it too, independent of syncs on descriptor(). The same as descriptor()
    /// if the file could not be opened twice.
    [[nodiscard]] int witness() const noexcept { return witness_ >= 0 ? witness_ : file_; }
    [[nodiscard]] const file_settings& settings() const noexcept { return settings_; }
    [[nodiscard]] const file_facts& facts() const noexcept { return facts_; }
    [[nodiscard]] nbd::abilities abilities() const noexcept
    {
        return {.read_only = settings_.read_only,
                .trim = facts_.discards,
                .resize = !facts_.device,
                .rotational = facts_.rotational};
    }
    /// Whether the file has the locks of file_settings::lock.
    [[nodiscard]] bool locked() const noexcept { return locked_; }

private:
    // `expected` is a std::string_view: callers pass `errno`, which making a std::string may
    // change.
    [[noreturn]] static void refuse(int error, const std::string& path, std::string_view expected)
    {
        throw std::system_error{error, std::system_category(),
                                "nbd: " + path + ": expected " + std::string{expected}};
    }
    /// *Returns* true if it created the file.
    bool open(const std::string& path)
    {
        // Checked before open(2), which waits for the other end of a pipe.
        if (System::holds_data(path.c_str()) == 0)
            refuse(EINVAL, path, "a regular file or a block device");
        const int flags = settings_.read_only ? O_RDONLY : O_RDWR;
        if (settings_.create && !settings_.read_only) {
            // Without direct I/O: a file system that does not support it reports so after it has
            // created the file.
            file_ = System::open(path.c_str(), flags | O_CREAT | O_EXCL, false);
            if (file_ >= 0)
                return true;
            if (errno != EEXIST)
                refuse_open(errno, path, "a path where a file can be created");
        }
        file_ = System::open(path.c_str(), flags, settings_.direct);
        if (file_ < 0)
            refuse_open(errno, path,
                        settings_.read_only ? "a file to read" : "a file to read and write");
        return false;
    }
    [[noreturn]] void refuse_open(int error, const std::string& path,
                                  std::string_view expected) const
    {
        // EINVAL: the file system has no direct I/O.
        refuse(error, path,
               settings_.direct && error == EINVAL ? "a file system with direct I/O" : expected);
    }
    void take_lock(const std::string& path)
    {
        if (settings_.lock == file_lock::off)
            return;
        const int failed =
            lock_image<System>(file_, !settings_.read_only, settings_.lock == file_lock::shared);
        if (failed == EBUSY)
            refuse(EBUSY, path, "a file that no other program uses (it is locked)");
        locked_ = failed == 0;
    }
    /// Gives a new file its size and makes the file and its name durable.
    void fill(const std::string& path)
    {
        const auto slash = path.rfind('/');
        const auto directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
        int error = EFBIG;
        if (*settings_.create <= std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
            if (System::truncate(file_, *settings_.create) == 0 && System::sync(file_) == 0
                && System::sync_directory(directory) == 0)
                return;
            error = errno;
        }
        refuse(error, path,
               "space for a new file of " + std::to_string(*settings_.create) + " bytes");
    }
    void examine(const std::string& path)
    {
        if (System::facts(file_, facts_) != 0)
            refuse(errno, path, "a regular file or a block device");
        if (!facts_.regular && !facts_.device)
            refuse(EINVAL, path, "a regular file or a block device");
        if (facts_.read_only && !settings_.read_only)
            refuse(EROFS, path, "a device that can be written to, or file_settings.read_only");
        const auto actual = "; it has " + std::to_string(facts_.size) + " bytes";
        if (settings_.create && *settings_.create != facts_.size)
            refuse(EEXIST, path,
                   "no file, or a file of " + std::to_string(*settings_.create) + " bytes"
                       + actual);
        if (!settings_.direct)
            return;
        if (!std::has_single_bit(facts_.direct_offset) || facts_.direct_offset > 65536)
            refuse(EINVAL, path, "a file system with direct I/O");
        if ((facts_.size & (facts_.direct_offset - 1)) != 0)
            refuse(EINVAL, path,
                   "a size that direct I/O supports, a multiple of "
                       + std::to_string(facts_.direct_offset) + " bytes" + actual);
    }

    int file_ = -1;
    int witness_ = -1;
    file_settings settings_;
    file_facts facts_;
    bool locked_ = false;
};

}  // namespace nbd
