// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstdint>
#include <initializer_list>

namespace nbd {

/// How an open file is protected from other programs, by advisory locks that qemu, qemu-img and
/// qemu-nbd use too.
enum class file_lock {
    exclusive,  ///< no other program writes, or reads while this one can write
    shared,     ///< other programs that share the file may read and write
    off,        ///< no locks
};

/// Takes the locks of qemu's image locking (block/file-posix.c of qemu) for an open file: one byte
/// for each permission that the caller uses, from 100 on, and one for each that it denies to
/// others, from 200 on. `writes`: the caller writes and resizes. `shares`: it denies nothing.
/// *Returns* 0; EBUSY if another program denies that use, or uses what is denied; ENOLCK where the
/// system or the file system has no such locks.
/// *Lifetime*: the locks end when the open file is closed.
template <class System>
[[nodiscard]] int lock_image(int file, bool writes, bool shares) noexcept
{
    constexpr std::uint64_t uses = 100;
    constexpr std::uint64_t denies = 200;
    constexpr std::uint64_t read = 0;
    constexpr std::uint64_t write = 1;
    constexpr std::uint64_t resize = 3;
    const auto for_each = [&](auto call) {
        int result = call(uses + read, denies + read);
        for (const auto permission : {write, resize}) {
            if (result == 0 && writes)
                result = call(uses + permission, denies + permission);
            if (result == 0 && !shares)
                result = call(denies + permission, uses + permission);
        }
        return result;
    };
    const auto lock = [&](std::uint64_t own, std::uint64_t) {
        if (System::lock_byte(file, own) == 0)
            return 0;
        return errno == EAGAIN || errno == EACCES ? EBUSY : ENOLCK;
    };
    const auto look = [&](std::uint64_t, std::uint64_t opposite) {
        const int locked = System::is_byte_locked(file, opposite);
        return locked == 0 ? 0 : locked > 0 ? EBUSY : ENOLCK;
    };
    // Order matters: of two programs that lock first and look then, at least one sees the other.
    const int failed = for_each(lock);
    return failed != 0 ? failed : for_each(look);
}

}  // namespace nbd
