// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/refused_call.hpp>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/fs.h>
#include <sys/ioctl.h>
#endif

namespace nbd {

/// What the system reports about an open file. Sizes in bytes.
struct file_facts {
    bool regular = false;
    bool device = false;      ///< a block device
    bool read_only = false;   ///< a block device that the system does not write to
    bool rotational = false;  ///< a block device on which seeks are expensive
    bool discards = true;     ///< false: a block device, open for writing, that has no TRIM
    std::uint64_t size = 0;
    std::uint32_t sector = 1;        ///< ranges of a block device are multiples of it; 1 for a file
    std::uint32_t preferred = 4096;  ///< the size of an efficient transfer
    /// Offsets and lengths of direct I/O are multiples of it; 0: no direct I/O.
    std::uint32_t direct_offset = 0;
    std::uint32_t direct_memory = 0;  ///< addresses of direct I/O are multiples of it
};

/// The system calls on files. Tests replace this type by their own. A call that a signal interrupts
/// is repeated. Where the system refuses read, write or sync, a similar call replaces it.
/// *Errors*: -1 and errno, as in POSIX; ENOTSUP for a call that this system does not have.
/// *Thread safety*: all members are safe from any thread.
struct posix_file {
    static_assert(sizeof(off_t) == 8, "nbd: files need 64 bits; compile with _FILE_OFFSET_BITS=64");

    /// `flags` as for open(2), without O_DIRECT, which `direct` adds.
    [[nodiscard]] static int open(const char* path, int flags, bool direct) noexcept
    {
#ifdef O_DIRECT
        if (direct)
            flags |= O_DIRECT;
#else
        if (direct)
            return unsupported();
#endif
        return repeat([&] { return ::open(path, flags | O_CLOEXEC, 0666); });
    }
    static void close(int file) noexcept { ::close(file); }
    /// Makes later I/O bypass the page cache. *Errors*: EINVAL where the file system has no direct
    /// I/O.
    [[nodiscard]] static int make_direct(int file) noexcept
    {
#ifdef O_DIRECT
        const int flags = ::fcntl(file, F_GETFL);
        return flags < 0 ? -1 : ::fcntl(file, F_SETFL, flags | O_DIRECT);
#else
        return (void)file, unsupported();
#endif
    }

    /// *Returns* 1 if the path names a regular file or a block device, 0 if something else.
    [[nodiscard]] static int holds_data(const char* path) noexcept
    {
        struct stat about {};
        if (::stat(path, &about) != 0)
            return -1;
        return S_ISREG(about.st_mode) || S_ISBLK(about.st_mode) ? 1 : 0;
    }
    [[nodiscard]] static int facts(int file, file_facts& to) noexcept
    {
        struct stat about {};
        if (::fstat(file, &about) != 0)
            return -1;
        to.regular = S_ISREG(about.st_mode);
        to.device = S_ISBLK(about.st_mode);
        to.size = static_cast<std::uint64_t>(about.st_size);
        const auto likes = static_cast<std::uint64_t>(about.st_blksize);
        if (std::has_single_bit(likes))
            to.preferred =
                static_cast<std::uint32_t>(std::clamp<std::uint64_t>(likes, 4096, 1 << 20));
        // Every current disk supports 4096; below, the system may report another value.
        to.direct_offset = to.direct_memory = 4096;
#ifdef BLKGETSIZE64
        if (to.device) {
            int sector = 0;
            int read_only = 0;
            to.read_only = ::ioctl(file, BLKROGET, &read_only) == 0 && read_only != 0;
            if (::ioctl(file, BLKGETSIZE64, &to.size) != 0
                || ::ioctl(file, BLKSSZGET, &sector) != 0)
                return -1;
            to.sector = to.direct_offset = to.direct_memory = static_cast<std::uint32_t>(sector);
            unsigned short rotates = 0;
            to.rotational = ::ioctl(file, BLKROTATIONAL, &rotates) == 0 && rotates != 0;
            // The system first checks whether the device can discard, then refuses this range,
            // because it does not begin at a sector.
            to.discards = discard(file, 1, 0) == 0 || errno != EOPNOTSUPP;
        }
#endif
#ifdef STATX_DIOALIGN
        struct statx more {};
        if (::statx(file, "", AT_EMPTY_PATH, STATX_DIOALIGN, &more) == 0
            && (more.stx_mask & STATX_DIOALIGN) != 0) {
            to.direct_offset = more.stx_dio_offset_align;
            to.direct_memory = more.stx_dio_mem_align;
        }
#endif
        return 0;
    }
    /// *Returns* the current size in bytes; 0 if the system does not report it.
    [[nodiscard]] static std::uint64_t size(int file) noexcept
    {
        struct stat about {};
        if (::fstat(file, &about) != 0)
            return 0;
        auto bytes = static_cast<std::uint64_t>(about.st_size);
#ifdef BLKGETSIZE64
        if (S_ISBLK(about.st_mode) && ::ioctl(file, BLKGETSIZE64, &bytes) != 0)
            return 0;
#endif
        return bytes;
    }

    [[nodiscard]] static ssize_t read(int file, void* to, std::size_t n, std::uint64_t at) noexcept
    {
        return repeat([&] {
            const auto done = ::pread(file, to, n, static_cast<off_t>(at));
            if (done >= 0 || !may_be_refused(errno)) [[likely]]
                return done;
            const ::iovec part{to, n};
            return ::preadv(file, &part, 1, static_cast<off_t>(at));
        });
    }
    /// Reads what the page cache holds, without waiting. *Errors*: also EAGAIN.
    static ssize_t read_now(int file, void* to, std::size_t n, std::uint64_t at) noexcept
    {
#ifdef RWF_NOWAIT
        const ::iovec part{to, n};
        return ::preadv2(file, &part, 1, static_cast<off_t>(at), RWF_NOWAIT);
#else
        return (void)file, (void)to, (void)n, (void)at, unsupported();
#endif
    }
    [[nodiscard]] static ssize_t write(int file, const void* from, std::size_t n,
                                       std::uint64_t at) noexcept
    {
        return repeat([&] {
            const auto done = ::pwrite(file, from, n, static_cast<off_t>(at));
            if (done >= 0 || !may_be_refused(errno)) [[likely]]
                return done;
            const ::iovec part{const_cast<void*>(from), n};
            return ::pwritev(file, &part, 1, static_cast<off_t>(at));
        });
    }
    /// Writes, and returns when the data are on stable storage.
    [[nodiscard]] static ssize_t write_durably(int file, const void* from, std::size_t n,
                                               std::uint64_t at) noexcept
    {
#ifdef RWF_DSYNC
        const ::iovec part{const_cast<void*>(from), n};
        return repeat(
            [&] { return ::pwritev2(file, &part, 1, static_cast<off_t>(at), RWF_DSYNC); });
#else
        return (void)file, (void)from, (void)n, (void)at, unsupported();
#endif
    }
    /// Brings written data, and the metadata needed to find them, to stable storage.
    [[nodiscard]] static int sync(int file) noexcept
    {
        return repeat([&] {
            const int done = ::fdatasync(file);
            return done == 0 || !may_be_refused(errno) ? done : ::fsync(file);
        });
    }
    /// Fails with the error of a failed write-back of the file that has not been reported for
    /// `file` yet. The system reports each once for each open file, by this call or by a sync,
    /// whichever process wrote the data.
    [[nodiscard]] static int loss(int file) noexcept
    {
#ifdef SYNC_FILE_RANGE_WAIT_BEFORE
        // Few files have data at this offset, so there is nothing to wait for. The offset is not
        // larger, because on 32-bit systems Linux checks nothing from 2^44 on and reports no error.
        constexpr off_t far_away = (off_t{1} << 44) - 4096;
        return repeat(
            [&] { return ::sync_file_range(file, far_away, 1, SYNC_FILE_RANGE_WAIT_BEFORE); });
#else
        return (void)file, unsupported();
#endif
    }
    /// Brings the names in a directory to stable storage, such as that of a new file.
    [[nodiscard]] static int sync_directory(const std::string& path) noexcept
    {
        const int file = open(path.c_str(), O_RDONLY | O_DIRECTORY, false);
        if (file < 0)
            return -1;
        int done = repeat([&] { return ::fsync(file); });
        if (done != 0 && may_be_refused(errno))
            done = repeat([&] { return ::fdatasync(file); });
        const int error = errno;
        close(file);
        errno = error;
        return done;
    }
    [[nodiscard]] static int truncate(int file, std::uint64_t size) noexcept
    {
        return repeat([&] { return ::ftruncate(file, static_cast<off_t>(size)); });
    }
    static void remove(const char* path) noexcept { ::unlink(path); }

    /// Locks a byte against exclusive locks of other open files; the lock belongs to the open file.
    /// *Errors*: EAGAIN or EACCES where another has an exclusive lock.
    [[nodiscard]] static int lock_byte(int file, std::uint64_t at) noexcept
    {
#ifdef F_OFD_SETLK
        struct flock lock = byte(F_RDLCK, at);
        return repeat([&] { return ::fcntl(file, F_OFD_SETLK, &lock); });
#else
        return (void)file, (void)at, unsupported();
#endif
    }
    /// *Returns* 1 if another open file has a lock on the byte, 0 if none has.
    [[nodiscard]] static int is_byte_locked(int file, std::uint64_t at) noexcept
    {
#ifdef F_OFD_GETLK
        struct flock lock = byte(F_WRLCK, at);
        if (repeat([&] { return ::fcntl(file, F_OFD_GETLK, &lock); }) != 0)
            return -1;
        return lock.l_type == F_UNLCK ? 0 : 1;
#else
        return (void)file, (void)at, unsupported();
#endif
    }

    /// Makes a hole in a file or a block device. The hole reads as zero.
    [[nodiscard]] static int punch(int file, std::uint64_t at, std::uint64_t length) noexcept
    {
#ifdef FALLOC_FL_PUNCH_HOLE
        return allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length);
#else
        return (void)file, (void)at, (void)length, unsupported();
#endif
    }
    /// Makes a range of a file read as zero, with storage allocated for it.
    [[nodiscard]] static int zero(int file, std::uint64_t at, std::uint64_t length) noexcept
    {
#ifdef FALLOC_FL_ZERO_RANGE
        return allocate(file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, at, length);
#else
        return (void)file, (void)at, (void)length, unsupported();
#endif
    }
    /// Makes a range of a block device read as zero. May be slow: a device without zeroing is
    /// written to.
    [[nodiscard]] static int zero_device(int file, std::uint64_t at, std::uint64_t length) noexcept
    {
#ifdef BLKZEROOUT
        std::uint64_t range[] = {at, length};
        return repeat([&] { return ::ioctl(file, BLKZEROOUT, range); });
#else
        return (void)file, (void)at, (void)length, unsupported();
#endif
    }
    /// Tells a block device that a range is not needed. What the range reads as afterwards depends
    /// on the device.
    [[nodiscard]] static int discard(int file, std::uint64_t at, std::uint64_t length) noexcept
    {
#ifdef BLKDISCARD
        std::uint64_t range[] = {at, length};
        return repeat([&] { return ::ioctl(file, BLKDISCARD, range); });
#else
        return (void)file, (void)at, (void)length, unsupported();
#endif
    }
    /// Starts to read a range into the page cache.
    [[nodiscard]] static int will_need(int file, std::uint64_t at, std::uint64_t length) noexcept
    {
#ifdef POSIX_FADV_WILLNEED
        errno = ::posix_fadvise(file, static_cast<off_t>(at), static_cast<off_t>(length),
                                POSIX_FADV_WILLNEED);
        return errno == 0 ? 0 : -1;
#else
        return (void)file, (void)at, (void)length, unsupported();
#endif
    }
    /// *Returns* the offset of the next data, or of the next hole, from `at` on. *Errors*: ENXIO
    /// where there is none before the end of the file. Moves the file position, which no other
    /// member uses.
    [[nodiscard]] static off_t next_data(int file, std::uint64_t at) noexcept
    {
#ifdef SEEK_DATA
        return ::lseek(file, static_cast<off_t>(at), SEEK_DATA);
#else
        return (void)file, (void)at, unsupported();
#endif
    }
    [[nodiscard]] static off_t next_hole(int file, std::uint64_t at) noexcept
    {
#ifdef SEEK_HOLE
        return ::lseek(file, static_cast<off_t>(at), SEEK_HOLE);
#else
        return (void)file, (void)at, unsupported();
#endif
    }

private:
    template <class F>
    static std::invoke_result_t<F&> repeat(F&& call) noexcept
    {
        for (;;) {
            const auto done = call();
            if (done >= 0 || errno != EINTR)
                return done;
        }
    }
    [[maybe_unused]] static int unsupported() noexcept
    {
        errno = ENOTSUP;
        return -1;
    }
    [[maybe_unused]] static struct flock byte(int type, std::uint64_t at) noexcept
    {
        struct flock lock {};
        lock.l_type = static_cast<short>(type);
        lock.l_whence = SEEK_SET;
        lock.l_start = static_cast<off_t>(at);
        lock.l_len = 1;
        return lock;
    }
#ifdef FALLOC_FL_PUNCH_HOLE
    static int allocate(int file, int mode, std::uint64_t at, std::uint64_t length) noexcept
    {
        return repeat([&] {
            return ::fallocate(file, mode, static_cast<off_t>(at), static_cast<off_t>(length));
        });
    }
#endif
};

}  // namespace nbd
