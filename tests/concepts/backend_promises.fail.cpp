// SPDX-License-Identifier: MIT
// A promise of a backend that is wrong, or does not hold; names that are misspelled.
// expect CONCURRENCY_NOT_STATIC: nbd: a backend promises `static constexpr nbd::concurrency concurrency = ...`
// expect CONCURRENCY_NOT_CONSTANT: nbd: a backend promises `static constexpr nbd::concurrency concurrency = ...`
// expect CONCURRENCY_OF_ANOTHER_TYPE: nbd: a backend promises `static constexpr nbd::concurrency concurrency = ...`
// expect PARALLEL_ALONE: nbd: a backend promises `static constexpr nbd::concurrency concurrency = ...`
// expect BLOCKS_A_FUNCTION: nbd: blocks, cancellable, multi_conn, rotational, fast_zero and fills_reads
// expect MULTI_CONN_NOT_STATIC: nbd: blocks, cancellable, multi_conn, rotational, fast_zero and fills_reads
// expect LEND_WITHOUT_PARALLEL: nbd: lent memory is used outside any lock
// expect LEND_FILE_WITHOUT_PARALLEL: nbd: lent memory is used outside any lock
// expect RESIZE_WITH_SERIALIZE_CLIENT: nbd: a backend can be resized by one client while another is served
// expect CANCELLABLE_AND_SYNCHRONOUS: nbd: this backend promises `cancellable`, which is for calls
// expect CONCURENCY: nbd: this backend has a member with a name similar to `concurrency`
// expect MULTICONN: nbd: this backend has a member with a name similar to `multi_conn`
// expect FASTZERO: nbd: this backend has a member with a name similar to `fast_zero`
// expect CANCELABLE: nbd: this backend has a member with a name similar to `cancellable`
// expect WIRTE: nbd: this backend has a member with a name similar to `write`
// expect FUSH: nbd: this backend has a member with a name similar to `flush`
// expect TIRM: nbd: this backend has a member with a name similar to `trim`
// expect WRITE_ZEROS: nbd: this backend has a member with a name similar to `write_zeroes`
// expect CAHCE: nbd: this backend has a member with a name similar to `cache`
// expect EXTENS: nbd: this backend has a member with a name similar to `extents`
// expect REISZE: nbd: this backend has a member with a name similar to `resize`
// expect ABILITES: nbd: this backend has a member with a name similar to `abilities`
// expect DRIAN: nbd: this backend has a member with a name similar to `drain`
// expect ASYNC_FUSH: nbd: this backend has a member with a name similar to `async_write`,
// expect NO_FLUSH: nbd: nbd::offers lists `flush`, and this backend does not have it
// expect NO_PROMISE: nbd: nbd::offers lists `multi_conn`, and this backend does not have it
// expect MORE_THAN_OFFERED: nbd: this backend has `lend`, and nbd::offers does not list it
// expect SIZE_THAT_CHANGES: nbd: this backend has `refresh_size`, and nbd::offers does not list it
// expect ABILITIES_NOT_LISTED: nbd: this backend has `abilities`, and nbd::offers does not list it
// expect OFFERS_OF_AN_UNSOUND_BACKEND: nbd: this backend's flush has the wrong shape; expected
#include "concepts/sound_disks.hpp"
#include <nbd/server.hpp>

#if defined CONCURRENCY_NOT_STATIC
struct disk : readable {
    nbd::concurrency concurrency = nbd::concurrency::parallel;
};
#elif defined CONCURRENCY_NOT_CONSTANT
struct disk : readable {
    static nbd::concurrency concurrency;
};
#elif defined CONCURRENCY_OF_ANOTHER_TYPE
struct disk : readable {
    static constexpr int concurrency = 2;
};
#elif defined BLOCKS_A_FUNCTION
struct disk : readable {
    bool blocks() const { return true; }
};
#elif defined MULTI_CONN_NOT_STATIC
struct disk : readable {
    bool multi_conn = true;
};
#elif defined LEND_WITHOUT_PARALLEL
struct disk : readable {
    from lend(u64, std::size_t) noexcept { return {}; }
};
#elif defined LEND_FILE_WITHOUT_PARALLEL
struct disk : readable {
    nbd::file_range lend_file(u64, std::size_t) noexcept { return {}; }
};
#elif defined RESIZE_WITH_SERIALIZE_CLIENT
struct disk : readable {
    static constexpr auto concurrency = nbd::concurrency::serialize_client;
    void resize(u64) {}
};
#elif defined CONCURENCY
struct disk : readable {
    static constexpr auto concurency = nbd::concurrency::parallel;
};
#elif defined MULTICONN
struct disk : readable {
    static constexpr bool multiconn = true;
};
#elif defined FASTZERO
struct disk : readable {
    static constexpr bool fastzero = true;
};
#elif defined CANCELABLE
struct disk : readable {
    static constexpr bool cancelable = true;
};
#elif defined WIRTE
struct disk : readable {
    void wirte(u64, from) {}
};
#elif defined FUSH
struct disk : writable {
    void fush() {}
};
#elif defined TIRM
struct disk : writable {
    void tirm(u64, u64) {}
};
#elif defined WRITE_ZEROS
struct disk : writable {
    void write_zeros(u64, u64, nbd::zero_flags) {}
};
#elif defined CAHCE
struct disk : writable {
    void cahce(u64, u64) {}
};
#elif defined EXTENS
struct disk : writable {
    void extens(u64, u64, nbd::extent_list&) {}
};
#elif defined REISZE
struct disk : writable {
    void reisze(u64) {}
};
#elif defined ASYNC_FUSH
struct disk {
    u64 size() const { return 0; }
    void async_read(u64, to, nbd::completion) {}
    void async_fush(nbd::completion) {}
};
#elif defined NO_FLUSH
struct disk : writable {};
static_assert(nbd::offers<disk, nbd::can::write, nbd::can::flush>);
#elif defined NO_PROMISE
struct disk : writable {};
static_assert(nbd::offers<disk, nbd::can::write, nbd::can::multi_conn>);
#elif defined MORE_THAN_OFFERED
struct disk : lender {
    from lend(u64, std::size_t) noexcept { return {}; }
};
static_assert(nbd::offers<disk, nbd::can::write, nbd::can::parallel>);
#elif defined SIZE_THAT_CHANGES
struct disk : writable {
    u64 refresh_size() noexcept { return 0; }
};
static_assert(nbd::offers<disk, nbd::can::write>);
#elif defined CANCELLABLE_AND_SYNCHRONOUS
struct disk : writable {
    static constexpr bool cancellable = true;
};
#elif defined PARALLEL_ALONE
struct disk : writable {
    static constexpr bool parallel = true;
};
#elif defined DRIAN
struct disk : writable {
    void drian(nbd::drain_reason) {}
};
#elif defined ABILITES
struct disk : writable {
    nbd::abilities abilites() const { return {}; }
};
#elif defined ABILITIES_NOT_LISTED
struct disk : writable {
    nbd::abilities abilities() const { return {}; }
};
static_assert(nbd::offers<disk, nbd::can::write>);
#elif defined OFFERS_OF_AN_UNSOUND_BACKEND
struct disk : writable {
    void flush(int) {}
};
static_assert(nbd::offers<disk, nbd::can::write, nbd::can::flush>);
#else
struct disk : writable {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;
    static constexpr bool multi_conn = true;
    from lend(u64, std::size_t) noexcept { return {}; }
    void resize(u64) {}
    u64 refresh_size() noexcept { return 0; }
};
static_assert(
    nbd::offers<disk, nbd::can::write, nbd::can::lend, nbd::can::resize, nbd::can::refresh_size,
                nbd::can::parallel, nbd::can::blocks, nbd::can::multi_conn>);
#endif

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
