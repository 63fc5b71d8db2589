// SPDX-License-Identifier: MIT
// A member of a backend that is missing, has a wrong shape, or goes round one of a derived class.
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
// expect EXTENTS_BY_VALUE: nbd: this backend's extents has the wrong shape; expected
// expect LEND: nbd: this backend's lend has the wrong shape; expected
// expect LEND_MAY_THROW: nbd: this backend's lend has the wrong shape; expected
// expect LEND_TEMPORARY: nbd: this backend's lend has the wrong shape; expected
// expect LEND_FILE: nbd: this backend's lend_file has the wrong shape; expected
// expect READ_NOW: nbd: this backend's read_now has the wrong shape; expected
// expect LEND_FOR_WRITE: nbd: this backend's lend_for_write has the wrong shape; expected
// expect LENT_WRITTEN: nbd: this backend's lent_written has the wrong shape; expected
// expect META_CONTEXTS: nbd: this backend's own contexts have the wrong shape; expected
// expect RESIZE: nbd: this backend's resize has the wrong shape; expected
// expect REFRESH_SIZE: nbd: this backend's refresh_size has the wrong shape; expected
// expect BLOCK_SIZES: nbd: this backend's block_sizes has the wrong shape; expected
// expect ABILITIES: nbd: this backend's abilities has the wrong shape; expected
// expect ABILITIES_NOT_CONST: nbd: this backend's abilities has the wrong shape; expected
// expect ABILITIES_A_CONSTANT: nbd: this backend's abilities has the wrong shape; expected
// expect ABILITIES_OF_A_STATE: nbd: this backend's abilities has the wrong shape; expected
// expect DRAIN: nbd: this backend's drain has the wrong shape; expected
// expect DRAIN_RESULT: nbd: this backend's drain has the wrong shape; expected
// expect DRAIN_OF_A_STATE: nbd: `drain` is a member of the backend that has `open`
// expect OPEN: nbd: this backend's open has the wrong shape; expected
// expect STATE_WITHOUT_READ: nbd: a backend needs `std::error_code read(std::uint64_t offset,
// expect PRIVATE_FLUSH: nbd: this backend's flush has the wrong shape; expected
// expect FINAL: nbd: this backend's flush has the wrong shape; expected
// expect FINAL_OVERLOADED: nbd: this backend's write has the wrong shape; expected
// expect FINAL_OVERLOADED_BY_REFERENCE: nbd: this backend's extents has the wrong shape; expected
// expect TEMPLATE: nbd: this backend's trim has the wrong shape; expected
// expect REQUIRED_BY_TEMPLATE: nbd: this backend's flush has the wrong shape; expected
// expect LEND_OF_A_BASE: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect LEND_FILE_OF_A_BASE: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect READ_NOW_OF_A_BASE: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect EXTENTS_OF_A_BASE: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect LEND_OF_A_DISTANT_BASE: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect LEND_OF_A_TEMPLATE: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect LEND_BELOW_HANDLE: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect EXTENTS_BELOW_ASYNC_READ: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect READ_WITH_OVERLOADS: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect BASE_OF_A_STATE: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect BASE_OF_A_FINAL_CLASS: nbd: this backend declares read and inherits lend, lend_file, read_now or extents
// expect LEND_FOR_WRITE_OF_A_BASE: nbd: this backend declares write and inherits lend_for_write, write_zeroes, trim
// expect WRITE_ZEROES_OF_A_BASE: nbd: this backend declares write and inherits lend_for_write, write_zeroes, trim
// expect TRIM_OF_A_BASE: nbd: this backend declares write and inherits lend_for_write, write_zeroes, trim
// expect FUA_WRITE_OF_A_BASE: nbd: this backend declares write and inherits lend_for_write, write_zeroes, trim
// expect WRITE_ZEROES_BELOW_ASYNC_WRITE: nbd: this backend declares write and inherits lend_for_write, write_zeroes, trim
// expect RESIZE_OF_A_BASE: nbd: this backend declares size and inherits resize or refresh_size
// expect REFRESH_SIZE_OF_A_BASE: nbd: this backend declares size and inherits resize or refresh_size
#include "concepts/sound_disks.hpp"
#include <nbd/server.hpp>

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
#elif defined EXTENTS_BY_VALUE
struct disk : writable {
    void extents(u64, u64, nbd::extent_list) {}
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
#elif defined READ_NOW
struct disk : lender {
    bool read_now(u64, to) noexcept { return false; }
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
#elif defined ABILITIES
struct disk : writable {
    std::uint16_t abilities() const { return 0; }
};
#elif defined ABILITIES_NOT_CONST
struct disk : writable {
    nbd::abilities abilities() { return {}; }
};
#elif defined ABILITIES_A_CONSTANT
struct disk : writable {
    static constexpr nbd::abilities abilities{.read_only = true};
};
#elif defined ABILITIES_OF_A_STATE
struct disk {
    struct state : writable {
        bool abilities() const { return true; }
    };
    state open(const nbd::client&) { return {}; }
};
#elif defined DRAIN
struct disk : writable {
    void drain() {}
};
#elif defined DRAIN_RESULT
struct disk : writable {
    bool drain(nbd::drain_reason) { return true; }
};
#elif defined DRAIN_OF_A_STATE
struct disk {
    struct state : writable {
        void drain(nbd::drain_reason) {}
    };
    state open(const nbd::client&) { return {}; }
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
#elif defined TEMPLATE
template <class Next>
struct layer : writable {
    void trim(u64)
        requires nbd::has_write<Next>
    {
    }
    void flush(bool)
        requires nbd::has_flush<Next>  // false: it counts as absent
    {
    }
};
using disk = layer<writable>;
#elif defined REQUIRED_BY_TEMPLATE
template <bool Flushes>
struct cache : writable {
    bool flush()
        requires Flushes
    {
        return true;
    }
};
using disk = cache<true>;
#elif defined LEND_OF_A_BASE
struct memory : lender {
    from lend(u64, std::size_t) noexcept { return {}; }
};
struct disk : memory {
    void read(u64, to) {}
};
#elif defined LEND_FILE_OF_A_BASE
struct file : lender {
    nbd::file_range lend_file(u64, std::size_t) noexcept { return {}; }
};
struct disk : file {
    void read(u64, to) {}
};
#elif defined READ_NOW_OF_A_BASE
struct cached : lender {
    std::size_t read_now(u64, to) noexcept { return 0; }
};
struct disk : cached {
    void read(u64, to) {}
};
#elif defined EXTENTS_OF_A_BASE
struct sparse : writable {
    void extents(u64, u64, nbd::extent_list&) {}
};
struct disk : sparse {
    std::error_code read(u64, to) { return {}; }
};
#elif defined LEND_OF_A_DISTANT_BASE
struct memory : lender {
    from lend(u64, std::size_t) noexcept { return {}; }
};
struct between : memory {
    void flush() {}
};
struct encrypted : between {
    void read(u64, to) {}
};
struct disk : encrypted {
    void trim(u64, u64) {}
};
#elif defined LEND_OF_A_TEMPLATE
template <class Next>
struct encrypted : Next {
    void read(u64, to) {}
};
struct memory : lender {
    from lend(u64, std::size_t) const noexcept { return {}; }
};
using disk = encrypted<memory>;
#elif defined LEND_BELOW_HANDLE
struct memory : lender {
    void handle(nbd::call&) {}
    from lend(u64, std::size_t) noexcept { return {}; }
};
struct disk : memory {
    void handle(nbd::call&) {}
};
#elif defined EXTENTS_BELOW_ASYNC_READ
struct sparse : caller {
    void async_extents(u64, u64, nbd::extent_list&, nbd::completion) {}
};
struct disk : sparse {
    void async_read(u64, to, nbd::completion) {}
};
#elif defined READ_WITH_OVERLOADS
struct memory : lender {
    from lend(u64, std::size_t) noexcept { return {}; }
    from lend(u64, std::size_t) const noexcept { return {}; }
};
struct disk : memory {
    void read(u64, to) {}
    void read(u64, to) const {}
    void read(to) {}
};
#elif defined BASE_OF_A_STATE
struct memory : lender {
    from lend(u64, std::size_t) noexcept { return {}; }
};
struct disk {
    struct state : memory {
        void read(u64, to) {}
    };
    state open(const nbd::client&) { return {}; }
};
#elif defined BASE_OF_A_FINAL_CLASS
struct memory : lender {
    from lend(u64, std::size_t) noexcept { return {}; }
};
struct disk final : memory {
    void read(u64, to) {}
};
#elif defined LEND_FOR_WRITE_OF_A_BASE
struct memory : lender {
    to lend_for_write(u64, std::size_t) noexcept { return {}; }
};
struct disk : memory {
    void write(u64, from) {}
};
#elif defined WRITE_ZEROES_OF_A_BASE
struct zeroing : writable {
    void write_zeroes(u64, u64, nbd::zero_flags) {}
};
struct disk : zeroing {
    void write(u64, from, nbd::write_flags) {}
};
#elif defined TRIM_OF_A_BASE
struct trimming : writable {
    void trim(u64, u64) {}
};
struct disk : trimming {
    void write(u64, from) {}
};
#elif defined FUA_WRITE_OF_A_BASE
struct durable : readable {
    void write(u64, from) {}
    void write(u64, from, nbd::write_flags) {}
};
struct disk : durable {
    using durable::write;
    void write(u64, from) {}
};
#elif defined WRITE_ZEROES_BELOW_ASYNC_WRITE
struct zeroing : caller {
    void async_write(u64, from, nbd::completion) {}
    void async_write_zeroes(u64, u64, nbd::zero_flags, nbd::completion) {}
};
struct disk : zeroing {
    void async_write(u64, from, nbd::completion) {}
};
#elif defined RESIZE_OF_A_BASE
struct growing : readable {
    void resize(u64) {}
};
struct disk : growing {
    u64 size() const { return 512; }
};
#elif defined REFRESH_SIZE_OF_A_BASE
struct growing : readable {
    u64 refresh_size() noexcept { return 0; }
};
struct disk : growing {
    u64 size() const { return 512; }
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
    std::size_t read_now(u64, to) noexcept { return 0; }
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
