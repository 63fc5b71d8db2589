// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/posix_file.hpp>

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
    /// For reading alone: every change fails with EROFS. Set the export's `read_only` too, so that
    /// clients know.
    bool read_only = false;
    /// Around the system's page cache (O_DIRECT). The minimum block size is then what the device
    /// wants, and the file's size has to be a multiple of it.
    bool direct = false;
    /// In bytes. A file that is not there is created with this size, as one hole; what is there
    /// already must have it.
    std::optional<std::uint64_t> create{};
};

/// A file or a block device that is open, and what the system told about it then.
template <class System>
class opened_file {
public:
    /// Errors: std::system_error, whose text names the path and says what was expected there.
    opened_file(const std::string& path, const file_settings& s) : settings_{s}
    {
        const bool created = open(path);
        try {
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
          settings_{other.settings_}, facts_{other.facts_}
    {
    }
    opened_file& operator=(opened_file&& other) noexcept
    {
        std::swap(file_, other.file_);
        std::swap(witness_, other.witness_);
        settings_ = other.settings_;
        facts_ = other.facts_;
        return *this;
    }
    ~opened_file()
    {
        for (const int file : {file_, witness_})
            if (file >= 0)
                System::close(file);
    }

    [[nodiscard]] int descriptor() const noexcept { return file_; }
    /// The same file, opened a second time: what syncs of the first are told of, this one is told of as well.
    /// Where it cannot be opened twice it is the same descriptor.
    [[nodiscard]] int witness() const noexcept { return witness_ >= 0 ? witness_ : file_; }
    [[nodiscard]] const file_settings& settings() const noexcept { return settings_; }
    [[nodiscard]] const file_facts& facts() const noexcept { return facts_; }

private:
    // `errno` is an argument of these, and texts are not yet strings there: to make one may change it.
    [[noreturn]] static void refuse(int error, const std::string& path, std::string_view expected)
    {
        throw std::system_error{error, std::system_category(),
                                "nbd: " + path + ": expected " + std::string{expected}};
    }
    /// True if it made a new file.
    bool open(const std::string& path)
    {
        // Before it is opened, because to open a pipe waits for its other end.
        if (System::holds_data(path.c_str()) == 0)
            refuse(EINVAL, path, "a regular file or a block device");
        const int flags = settings_.read_only ? O_RDONLY : O_RDWR;
        if (settings_.create && !settings_.read_only) {
            // Without direct I/O, because where there is none the system says so when it has made the file.
            file_ = System::open(path.c_str(), flags | O_CREAT | O_EXCL, false);
            if (file_ >= 0)
                return true;
            if (errno != EEXIST)
                refuse_open(errno, path, "a place for a new file");
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
    /// Gives a new file its size, for good.
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
               "room for a new file of " + std::to_string(*settings_.create) + " bytes");
    }
    void examine(const std::string& path)
    {
        if (System::facts(file_, facts_) != 0)
            refuse(errno, path, "a regular file or a block device");
        if (!facts_.regular && !facts_.device)
            refuse(EINVAL, path, "a regular file or a block device");
        const auto actual = "; it has " + std::to_string(facts_.size);
        if (settings_.create && *settings_.create != facts_.size)
            refuse(EEXIST, path,
                   "nothing, or a file of " + std::to_string(*settings_.create) + " bytes"
                       + actual);
        if (!settings_.direct)
            return;
        if (!std::has_single_bit(facts_.direct_offset) || facts_.direct_offset > 65536)
            refuse(EINVAL, path, "a file system with direct I/O");
        if ((facts_.size & (facts_.direct_offset - 1)) != 0)
            refuse(EINVAL, path,
                   "a size that direct I/O can reach, a multiple of "
                       + std::to_string(facts_.direct_offset) + " bytes" + actual);
    }

    int file_ = -1;
    int witness_ = -1;
    file_settings settings_;
    file_facts facts_;
};

}  // namespace nbd
