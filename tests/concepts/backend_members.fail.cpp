// SPDX-License-Identifier: MIT
// A member of a backend that is missing or has a wrong shape.
// expect NO_SIZE: nbd: a backend needs `std::uint64_t size() const`
// expect SIZE_NOT_CONST: nbd: this backend's size has the wrong shape; expected
// expect NO_READ: nbd: a backend needs `std::error_code read(std::uint64_t offset,
// expect READ_SWAPPED: nbd: this backend's read has the wrong shape; expected
// expect READ_BY_REFERENCE: nbd: this backend's read has the wrong shape; expected
// expect HANDLE: nbd: this backend's handle has the wrong shape; expected
// expect WRITE_TO_CONST: nbd: this backend's write has the wrong shape; expected
// expect WRITE_FLAGS: nbd: this backend's write has the wrong shape; expected
// expect FLUSH: nbd: this backend's flush has the wrong shape; expected
// expect FLUSH_RESULT: nbd: this backend's flush has the wrong shape; expected
// expect TRIM: nbd: this backend's trim has the wrong shape; expected
// expect TRIM_WITHOUT_WRITE: nbd: a backend that has trim, write_zeroes or lend_for_write needs write
// expect WRITE_ZEROES: nbd: this backend's write_zeroes has the wrong shape; expected
// expect CACHE: nbd: this backend's cache has the wrong shape; expected
// expect EXTENTS: nbd: this backend's extents has the wrong shape; expected
// expect LEND: nbd: this backend's lend has the wrong shape; expected
// expect LEND_MAY_THROW: nbd: this backend's lend has the wrong shape; expected
// expect LEND_TEMPORARY: nbd: this backend's lend has the wrong shape; expected
// expect LEND_FILE: nbd: this backend's lend_file has the wrong shape; expected
// expect LEND_FOR_WRITE: nbd: this backend's lend_for_write has the wrong shape; expected
// expect LENT_WRITTEN: nbd: this backend's lent_written has the wrong shape; expected
// expect META_CONTEXTS: nbd: this backend's own contexts have the wrong shape; expected
// expect RESIZE: nbd: this backend's resize has the wrong shape; expected
// expect REFRESH_SIZE: nbd: this backend's refresh_size has the wrong shape; expected
// expect BLOCK_SIZES: nbd: this backend's block_sizes has the wrong shape; expected
// expect OPEN: nbd: this backend's open has the wrong shape; expected
// expect STATE_WITHOUT_READ: nbd: a backend needs `std::error_code read(std::uint64_t offset,
// expect PRIVATE_FLUSH: nbd: this backend's flush has the wrong shape; expected
// expect FINAL: nbd: this backend's flush has the wrong shape; expected
// expect FINAL_OVERLOADED: nbd: this backend's write has the wrong shape; expected
// expect FINAL_OVERLOADED_BY_REFERENCE: nbd: this backend's extents has the wrong shape; expected
#include <nbd/server.hpp>

using u64 = std::uint64_t;
using to = std::span<std::byte>;
using from = std::span<const std::byte>;

struct readable {
    u64 size() const { return 0; }
    void read(u64, to) {}
};
struct writable : readable {
    void write(u64, from) {}
};
struct lender : writable {
    static constexpr auto concurrency = nbd::concurrency::parallel;
};
#if defined NO_SIZE
struct disk {
    void read(u64, to) {}
};
#elif defined SIZE_NOT_CONST
struct disk {
    u64 size() { return 0; }
    void read(u64, to) {}
};
#elif defined NO_READ
struct disk {
    u64 size() const { return 0; }
};
#elif defined READ_SWAPPED
struct disk {
    u64 size() const { return 0; }
    void read(to, u64) {}
};
#elif defined READ_BY_REFERENCE
struct disk {
    u64 size() const { return 0; }
    void read(u64&, to&) {}
};
#elif defined HANDLE
struct disk {
    u64 size() const { return 0; }
    void handle(nbd::call) {}
};
#elif defined WRITE_TO_CONST
struct disk : readable {
    void write(u64, to) {}
};
#elif defined WRITE_FLAGS
struct disk : readable {
    void write(u64, from, nbd::write_flags&&) {}
};
#elif defined FLUSH
struct disk : writable {
    void flush(bool) {}
};
#elif defined FLUSH_RESULT
struct disk : writable {
    bool flush() { return true; }
};
#elif defined TRIM
struct disk : writable {
    void trim(u64) {}
};
#elif defined TRIM_WITHOUT_WRITE
struct disk : readable {
    void trim(u64, u64) {}
};
#elif defined WRITE_ZEROES
struct disk : writable {
    void write_zeroes(u64, u64) {}
};
#elif defined CACHE
struct disk : writable {
    void cache(to) {}
};
#elif defined EXTENTS
struct disk : writable {
    void extents(u64, u64) {}
};
#elif defined LEND
struct disk : lender {
    to lend(u64) noexcept { return {}; }
};
#elif defined LEND_MAY_THROW
struct disk : lender {
    from lend(u64, std::size_t) { return {}; }
};
#elif defined LEND_TEMPORARY
struct disk : lender {
    std::vector<std::byte> lend(u64, std::size_t) noexcept { return {}; }
};
#elif defined LEND_FILE
struct disk : lender {
    int lend_file(u64, std::size_t) noexcept { return 0; }
};
#elif defined LEND_FOR_WRITE
struct disk : lender {
    from lend_for_write(u64, std::size_t) noexcept { return {}; }
};
#elif defined LENT_WRITTEN
struct disk : lender {
    to lend_for_write(u64, std::size_t) noexcept { return {}; }
    void lent_written(u64) noexcept {}
};
#elif defined META_CONTEXTS
struct disk : writable {
    std::vector<nbd::meta_context> meta_contexts() const { return {}; }
    void context_extents(std::size_t, u64, u64, nbd::extent_list&) {}
};
#elif defined RESIZE
struct disk : writable {
    void resize(u64, u64) {}
};
#elif defined REFRESH_SIZE
struct disk : writable {
    u64 refresh_size() { return 0; }  // may throw
};
#elif defined BLOCK_SIZES
struct disk : writable {
    unsigned block_sizes() const { return 512; }
};
#elif defined OPEN
struct disk : writable {
    void open(const nbd::client&) {}
};
#elif defined STATE_WITHOUT_READ
struct disk {
    struct state {
        u64 size() const { return 0; }
    };
    state open(const nbd::client&) { return {}; }
};
#elif defined PRIVATE_FLUSH
class disk : public writable {
    void flush() {}
};
#elif defined FINAL
struct disk final : writable {
    void flush(int) {}
};
#elif defined FINAL_OVERLOADED
struct disk final : readable {
    void write(u64, to) {}
    void write(u64, to, nbd::write_flags) {}
};
#elif defined FINAL_OVERLOADED_BY_REFERENCE
struct disk final : writable {
    void extents(nbd::extent_list&) {}
    void extents(nbd::extent_list&, u64&) {}
};
#else
struct disk : lender {
    void write(u64, from) {}
    void write(u64, from, nbd::write_flags) {}
    void flush() {}
    void trim(u64, u64) {}
    void write_zeroes(u64, u64, nbd::zero_flags) {}
    void cache(u64, u64) {}
    void extents(u64, u64, nbd::extent_list&) {}
    from lend(u64, std::size_t) noexcept { return {}; }
    nbd::file_range lend_file(u64, std::size_t) noexcept { return {}; }
    to lend_for_write(u64, std::size_t) noexcept { return {}; }
    void lent_written(u64, std::size_t) noexcept {}
    std::span<const nbd::meta_context> meta_contexts() const { return {}; }
    void context_extents(std::size_t, u64, u64, nbd::extent_list&) {}
    void resize(u64) {}
    u64 refresh_size() noexcept { return 0; }
    nbd::block_sizes block_sizes() const { return {}; }
};
#endif

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
