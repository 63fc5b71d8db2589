// SPDX-License-Identifier: MIT
// A member of a backend that would truncate an offset, a length or a size.
// expect SIZE: nbd: this backend's size has the wrong shape; expected
// expect READ: nbd: this backend's read has the wrong shape; expected
// expect READ_OF_A_FLOAT: nbd: this backend's read has the wrong shape; expected
// expect WRITE: nbd: this backend's write has the wrong shape; expected
// expect FUA_WRITE: nbd: this backend's write has the wrong shape; expected
// expect PLAIN_WRITE: nbd: this backend's write has the wrong shape; expected
// expect TRIM: nbd: this backend's trim has the wrong shape; expected
// expect TRIM_LENGTH: nbd: this backend's trim has the wrong shape; expected
// expect WRITE_ZEROES: nbd: this backend's write_zeroes has the wrong shape; expected
// expect CACHE: nbd: this backend's cache has the wrong shape; expected
// expect EXTENTS: nbd: this backend's extents has the wrong shape; expected
// expect CONTEXT_EXTENTS: nbd: this backend's own contexts have the wrong shape; expected
// expect LEND: nbd: this backend's lend has the wrong shape; expected
// expect LEND_FILE: nbd: this backend's lend_file has the wrong shape; expected
// expect READ_NOW: nbd: this backend's read_now has the wrong shape; expected
// expect LEND_FOR_WRITE: nbd: this backend's lend_for_write has the wrong shape; expected
// expect LENT_WRITTEN: nbd: this backend's lent_written has the wrong shape; expected
// expect RESIZE: nbd: this backend's resize has the wrong shape; expected
// expect ASYNC_READ: nbd: this backend's async_read has the wrong shape; expected
// expect ASYNC_WRITE: nbd: this backend's async_write has the wrong shape; expected
// expect ASYNC_TRIM: nbd: this backend's async_trim has the wrong shape; expected
// expect ASYNC_CACHE: nbd: this backend's async_cache has the wrong shape; expected
// expect ASYNC_EXTENTS: nbd: this backend's async_extents has the wrong shape; expected
#include "concepts/sound_disks.hpp"
#include <nbd/server.hpp>

#if defined SIZE
struct disk {
    unsigned size() const { return 0; }
    void read(u64, to) {}
};
#elif defined READ
struct disk {
    u64 size() const { return 0; }
    void read(unsigned, to) {}
};
#elif defined READ_OF_A_FLOAT
struct disk {
    u64 size() const { return 0; }
    void read(double, to) {}
};
#elif defined WRITE
struct disk : readable {
    void write(int, from) {}
};
#elif defined FUA_WRITE
struct disk : writable {
    using writable::write;
    void write(int, from, nbd::write_flags) {}
};
#elif defined PLAIN_WRITE
struct disk : readable {
    void write(int, from) {}
    void write(u64, from, nbd::write_flags) {}
};
#elif defined TRIM
struct disk : writable {
    void trim(int, short) {}
};
#elif defined TRIM_LENGTH
struct disk : writable {
    void trim(u64, unsigned) {}
};
#elif defined WRITE_ZEROES
struct disk : writable {
    void write_zeroes(u64, std::uint32_t, nbd::zero_flags) {}
};
#elif defined CACHE
struct disk : writable {
    void cache(const unsigned&, u64) {}
};
#elif defined EXTENTS
struct disk : writable {
    void extents(u64, unsigned, nbd::extent_list&) {}
};
#elif defined CONTEXT_EXTENTS
struct disk : writable {
    std::span<const nbd::meta_context> meta_contexts() const { return {}; }
    void context_extents(std::size_t, unsigned, u64, nbd::extent_list&) {}
};
#elif defined LEND
struct disk : lender {
    from lend(unsigned, std::size_t) noexcept { return {}; }
};
#elif defined LEND_FILE
struct disk : lender {
    nbd::file_range lend_file(unsigned, std::size_t) noexcept { return {}; }
};
#elif defined READ_NOW
struct disk : lender {
    std::size_t read_now(unsigned, to) noexcept { return 0; }
};
#elif defined LEND_FOR_WRITE
struct disk : lender {
    to lend_for_write(u64, unsigned) noexcept { return {}; }
};
#elif defined LENT_WRITTEN
struct disk : lender {
    void lent_written(u64, unsigned) noexcept {}
};
#elif defined RESIZE
struct disk : writable {
    void resize(unsigned) {}
};
#elif defined ASYNC_READ
struct disk {
    u64 size() const { return 0; }
    void async_read(unsigned, to, nbd::completion) {}
};
#elif defined ASYNC_WRITE
struct disk : caller {
    void async_write(unsigned, from, nbd::completion) {}
};
#elif defined ASYNC_TRIM
struct disk : caller {
    void async_write(u64, from, nbd::completion) {}
    void async_trim(u64, unsigned, nbd::completion) {}
};
#elif defined ASYNC_CACHE
struct disk : caller {
    void async_cache(int, u64, nbd::completion) {}
};
#elif defined ASYNC_EXTENTS
struct disk : caller {
    void async_extents(int, u64, nbd::extent_list&, nbd::completion) {}
};
#else
struct sector {
    sector(u64) {}
};
struct disk {
    u64 size() const { return 0; }
    void read(const u64&, to) {}
    void write(std::size_t, from) {}
    void trim(unsigned long long, u64) {}
    void cache(sector, auto) {}
};
#endif

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
