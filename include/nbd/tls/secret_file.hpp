// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

namespace nbd::tls {

/// The content of a file. The memory is overwritten before it is released.
class file_content {
public:
    file_content() = default;
    file_content(file_content&& other) noexcept : text{std::move(other.text)} { other.erase(); }
    file_content& operator=(file_content&&) = delete;
    ~file_content() { erase(); }

    void erase() noexcept
    {
        OPENSSL_cleanse(text.data(), text.size());
        text.clear();
    }

    std::string text;
};

/// Whether others than its owner could have read a secret file. *Returns* what is wrong; empty if
/// nothing is.
///
/// The owner must be the user of this process, or root. Nobody else may have any access, with one
/// exception: the group may read a file that belongs to root. (PostgreSQL has the same rule for the
/// keys of its servers.)
[[nodiscard]] inline std::string unsafe_permissions(const struct ::stat& file, ::uid_t user)
{
    constexpr ::mode_t of_others = S_IRWXG | S_IRWXO;
    const auto allowed = file.st_uid == 0 ? ::mode_t{S_IRGRP} : ::mode_t{0};
    if (file.st_uid != user && file.st_uid != 0)
        return "it belongs to another user (uid " + std::to_string(file.st_uid)
            + "); expected the user of this process, or root";
    if ((file.st_mode & of_others & ~allowed) == 0)
        return {};
    std::array<char, 8> mode{};
    std::snprintf(mode.data(), mode.size(), "%04o", static_cast<unsigned>(file.st_mode & 07777));
    return std::string{"it is open to others (mode "} + mode.data()
        + "); expected 0600, or 0640 if it belongs to root";
}

/// Reads a file of at most a megabyte. `secret`: also checks its permissions. *Returns* nothing on
/// failure, with the cause in `why`, whose text names the file.
[[nodiscard]] inline std::optional<file_content> read_file(const std::string& path, bool secret,
                                                           failure& why)
{
    constexpr std::size_t most = std::size_t{1} << 20;
    const auto fails = [&](int error, const std::string& text) {
        why = {std::error_code{error, std::system_category()}, path + ": " + text};
        return std::nullopt;
    };
    const auto fails_with_errno = [&] {
        const int error = errno;
        return fails(error, std::system_category().message(error));
    };
    const owned_descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    struct ::stat about {};
    if (file.get() < 0 || ::fstat(file.get(), &about) != 0)
        return fails_with_errno();
    if (!S_ISREG(about.st_mode))
        return fails(EINVAL, "expected a regular file");
    if (secret) {
        if (const auto wrong = unsafe_permissions(about, ::geteuid()); !wrong.empty())
            return fails(EPERM, wrong);
    }
    file_content content;
    content.text.reserve(most + 1);  // so that no copy of a secret stays in freed memory
    for (;;) {
        const auto at = content.text.size();
        content.text.resize(std::min(at + 65536, most + 1));
        const auto n = ::read(file.get(), content.text.data() + at, content.text.size() - at);
        content.text.resize(at + static_cast<std::size_t>(n < 0 ? 0 : n));
        if (n == 0)
            return content;
        if (n < 0 && errno != EINTR)
            return fails_with_errno();
        if (content.text.size() > most)
            return fails(EFBIG, "expected at most a megabyte");
    }
}

}  // namespace nbd::tls
