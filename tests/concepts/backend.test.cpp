// SPDX-License-Identifier: MIT
// Archetypes: the smallest models of each concept, in every style, are accepted by the whole
// server. The *.fail.cpp files beside this file are programs that must not compile.
#include "catch.hpp"
#include <nbd/backend/callback_backend.hpp>
#include <nbd/backend/file_backend.hpp>
#include <nbd/backend/null_backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/server.hpp>
#include <nbd/vocabulary/call.hpp>

#include <boost/system/error_code.hpp>

#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <unistd.h>

using u64 = std::uint64_t;
using to = std::span<std::byte>;
using from = std::span<const std::byte>;
using nbd::diagnosis::backend_is_sound;

namespace {

// the smallest backend
struct least {
    u64 size() const { return 0; }
    void read(u64, to) {}
};
static_assert(nbd::readable_backend<least> && !nbd::backend<least> && backend_is_sound<least>());
static_assert(!nbd::has_write<least> && !nbd::has_flush<least> && !nbd::has_trim<least>);
static_assert(!nbd::has_cache<least> && !nbd::has_write_zeroes<least> && !nbd::has_open<least>);
static_assert(!nbd::has_lend<least> && !nbd::has_lend_for_write<least>);
static_assert(!nbd::has_block_sizes<least> && !nbd::has_handle<least>);
static_assert(!nbd::has_abilities<least>);
static_assert(nbd::concurrency_of<least>() == nbd::concurrency::serialize_all);
static_assert(std::is_same_v<nbd::served_t<least>, least>);

struct least_handler {
    u64 size() const { return 0; }
    void handle(nbd::call&) {}
};
static_assert(nbd::readable_backend<least_handler> && backend_is_sound<least_handler>());

// read, write, flush and trim, each with another return type
struct styles {
    std::size_t size() const { return 512; }
    std::error_code read(u64, to) { return {}; }
    void write(u64, from) {}
    boost::system::error_code flush() { return {}; }
    const std::error_code& trim(u64, u64) { return error; }
    std::error_code error;
};
static_assert(nbd::backend<styles> && backend_is_sound<styles>());

// the facts of a disk
struct described : least {
    nbd::block_sizes block_sizes() const { return {}; }
    nbd::abilities abilities() const { return {.read_only = true}; }
};
static_assert(nbd::has_block_sizes<described> && nbd::has_abilities<described>);
static_assert(nbd::offers<described, nbd::can::block_sizes, nbd::can::abilities>);

// the end of a backend's life
struct drained : least {
    std::errc drain(nbd::drain_reason) { return {}; }
};
static_assert(nbd::has_drain<drained> && !nbd::awaits_drain<drained> && !nbd::has_drain<least>);
static_assert(nbd::offers<drained, nbd::can::drain>);
struct awaits_its_drain : least {
    boost::asio::awaitable<void> drain(nbd::drain_reason);
};
static_assert(nbd::awaits_drain<awaits_its_drain> && backend_is_sound<awaits_its_drain>());
struct opens_drained : drained {
    least open(const nbd::client&) { return {}; }
};
static_assert(nbd::offers<opens_drained, nbd::can::open, nbd::can::drain>);

// strict: what is listed, and no more
static_assert(nbd::offers<least> && nbd::offers<least_handler, nbd::can::handle>);
static_assert(nbd::offers<styles, nbd::can::write, nbd::can::flush, nbd::can::trim>);
static_assert(nbd::has_ability<styles, nbd::can::write>()
              && !nbd::has_ability<styles, nbd::can::fua>());

struct of_errc {
    u64 size() const { return 0; }
    std::errc read(u64, to) { return std::errc::io_error; }
};
static_assert(backend_is_sound<of_errc>());

// a final class, members that are overloaded, templates, const, static, noexcept, defaulted
class sealed final {
public:
    u64 size() const noexcept { return 0; }
    static void read(u64, to) {}
    void write(u64, from) const {}
    void write(u64, from, nbd::write_flags) {}
    auto flush() noexcept -> std::error_code { return {}; }
    void trim(u64, u64, int = 0) {}
    void cache(auto, auto) {}
};
static_assert(nbd::backend<sealed> && backend_is_sound<sealed>());
static_assert(nbd::has_plain_write<sealed> && nbd::has_fua_write<sealed> && nbd::has_cache<sealed>);

struct overloaded {
    u64 size() const { return 0; }
    u64 size(int) const { return 0; }
    void read(u64, to) {}
    void read(u64, std::vector<std::byte>&) {}
    void flush() {}
    void flush(int) {}
};
static_assert(backend_is_sound<overloaded>() && nbd::has_flush<overloaded>);

struct inherited : private least {
    using least::read;
    using least::size;
};
static_assert(backend_is_sound<inherited>());

// a class that declares read may inherit lend where the author has said so
struct memory {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    u64 size() const { return 0; }
    void read(u64, to) {}
    void write(u64, from) {}
    void trim(u64, u64) {}
    void cache(u64, u64) {}
    from lend(u64, std::size_t) noexcept { return {}; }
};
struct silent_override : memory {
    void read(u64, to) {}
};
struct forwarding : memory {
    void read(u64, to) {}
    from lend(u64 offset, std::size_t length) noexcept { return memory::lend(offset, length); }
};
struct named : private memory {
    using memory::cache, memory::concurrency, memory::lend, memory::size, memory::trim,
        memory::write;
    void read(u64, to) {}
};
static_assert(!backend_is_sound<silent_override>());
static_assert(backend_is_sound<forwarding>() && backend_is_sound<named>());
static_assert(nbd::has_lend<forwarding> && nbd::has_lend<named>);

// what a base declares above its own read, and what has nothing to do with data, is inherited
struct promising : memory {
    static constexpr bool multi_conn = true;
    void flush() {}
    from lend(u64, std::size_t) noexcept { return {}; }
};
struct overrides_flush : promising {
    void flush() {}
    nbd::block_sizes block_sizes() const { return {}; }
};
struct reads_only_itself : least {
    void read(u64, to) {}
    void cache(u64, u64) {}
};
struct inherits_cache : reads_only_itself {
    void read(u64, to) {}
};
static_assert(backend_is_sound<promising>() && backend_is_sound<overrides_flush>());
static_assert(backend_is_sound<reads_only_itself>() && backend_is_sound<inherits_cache>());

// abilities that another base declares
struct lends {
    from lend(u64, std::size_t) noexcept { return {}; }
};
struct composed : reads_only_itself, lends {
    static constexpr auto concurrency = nbd::concurrency::parallel;
};
static_assert(backend_is_sound<composed>() && nbd::has_lend<composed>);

// an overloaded member is found by its parameters; a template is not found
struct overloading : memory {
    void read(u64, to) const {}
    void read(u64, to) {}
    void read(u64, from) {}
};
struct overloaded_lend : memory {
    from lend(u64, std::size_t) const noexcept { return {}; }
    from lend(u64, std::size_t) { return {}; }
    from lend(u64, std::size_t, int) noexcept { return {}; }
    from lend() noexcept { return {}; }
};
static_assert(std::is_same_v<nbd::diagnosis::in_lend<memory>, std::type_identity<memory>>);
static_assert(std::is_same_v<nbd::diagnosis::in_lend<silent_override>, std::type_identity<memory>>);
static_assert(
    std::is_same_v<nbd::diagnosis::in_lend<overloaded_lend>, std::type_identity<overloaded_lend>>);
struct unknown : memory {
    void read(auto, to) {}
};
static_assert(!backend_is_sound<overloading>() && backend_is_sound<unknown>());

// the backends of the library cannot be derived from
static_assert(std::is_final_v<nbd::mem_backend> && std::is_final_v<nbd::null_backend>);
static_assert(std::is_final_v<nbd::file_backend>);
static_assert(std::is_final_v<nbd::callback_backend<void (*)(nbd::call&)>>);

// all members
struct full {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    static constexpr bool multi_conn = true, rotational = true, fast_zero = true,
                          fills_reads = true;
    u64 size() const { return 0; }
    void read(u64, to) {}
    void write(u64, from) {}
    void write(u64, from, nbd::write_flags) {}
    void flush() {}
    void trim(u64, u64) {}
    void write_zeroes(u64, u64, nbd::zero_flags) {}
    void cache(u64, u64) {}
    std::span<const std::byte> lend(u64, std::size_t) noexcept { return {}; }
    std::size_t read_now(u64, to) noexcept { return 0; }
    std::span<std::byte> lend_for_write(u64, std::size_t) noexcept { return {}; }
    nbd::block_sizes block_sizes() const { return {}; }
};
static_assert(nbd::backend<full> && backend_is_sound<full>());
static_assert(nbd::has_read_now<full> && !nbd::has_read_now<least>);
static_assert(nbd::promises_multi_conn<full> && nbd::promises_rotational<full>);
static_assert(nbd::promises_fast_zero<full> && nbd::promises_fills_reads<full>);
static_assert(!nbd::promises_multi_conn<least> && !nbd::promises_fills_reads<least>);

// a member with a wrong shape gives no ability, but is detected
struct wrong {
    void flush(int) {}
    int trim(u64, u64) { return 0; }
    int cache = 0;
};
static_assert(!nbd::has_flush<wrong> && nbd::diagnosis::names_flush<wrong>);
static_assert(!nbd::has_trim<wrong> && nbd::diagnosis::names_trim<wrong>);
static_assert(!nbd::has_cache<wrong> && nbd::diagnosis::names_cache<wrong>);
static_assert(!nbd::diagnosis::names_read<wrong> && !nbd::diagnosis::names_lend<wrong>);
struct wrong_final final {
    void flush(int) {}
};
static_assert(nbd::diagnosis::names_flush<wrong_final> && !nbd::diagnosis::names_trim<wrong_final>);
static_assert(!nbd::diagnosis::names_flush<int>);
struct overloaded_final final {
    void write(u64, to) {}
    void write(u64, to, nbd::write_flags) {}
    void extents(u64&, nbd::extent_list&) {}
    void extents(u64&, u64&, nbd::extent_list&) {}
};
static_assert(nbd::diagnosis::names_write<overloaded_final>
              && nbd::diagnosis::names_extents<overloaded_final>
              && !nbd::diagnosis::names_flush<overloaded_final>);

// an offset or a length that would be truncated is a wrong shape
struct narrow {
    u64 size() const { return 0; }
    void read(unsigned, to) {}
    void write(int, from) {}
    void trim(int, short) {}
    void write_zeroes(u64, unsigned, nbd::zero_flags) {}
    void cache(double, u64) {}
    void resize(unsigned) {}
    from lend(unsigned, std::size_t) noexcept { return {}; }
};
static_assert(!nbd::has_read<narrow> && !nbd::has_write<narrow> && !nbd::has_trim<narrow>);
static_assert(!nbd::has_write_zeroes<narrow> && !nbd::has_cache<narrow>);
static_assert(!nbd::has_resize<narrow> && !nbd::has_lend<narrow>);
struct sector {
    sector(u64) {}
};
struct wide {
    void read(::off_t, to) {}
    void trim(const long long&, sector) {}
};
static_assert(nbd::has_read<wide> && nbd::has_trim<wide>);

// a wrong name is not an error if the right one is there too
struct spelled_twice {
    u64 size() const { return 0; }
    void read(u64, to) {}
    void flush() {}
    void fush() {}
};
static_assert(backend_is_sound<spelled_twice>());
struct misspelled {
    static constexpr auto concurency = nbd::concurrency::parallel;
    u64 size() const { return 0; }
    void read(u64, to) {}
};
static_assert(!backend_is_sound<misspelled>());

// lend is called where an exception is not allowed
struct throwing_lender {
    std::span<const std::byte> lend(u64, std::size_t) { return {}; }
};
static_assert(!nbd::has_lend<throwing_lender>);

// open: a state for each client, of several kinds
struct opener {
    struct state {
        u64 size() const { return 0; }
        void read(u64, to) {}
    };
    state open(const nbd::client&) { return {}; }
};
static_assert(nbd::has_open<opener> && backend_is_sound<opener>()
              && !nbd::readable_backend<opener>);
static_assert(std::is_same_v<nbd::served_t<opener>, opener::state>);

struct referring_opener {
    // movable, but not assignable: for example a state with a reference member
    struct state {
        const referring_opener& disk;
        u64 size() const { return disk.bytes; }
        void read(u64, to) {}
    };
    state open(const nbd::client&) { return {*this}; }
    u64 bytes = 512;
};
static_assert(backend_is_sound<referring_opener>());

// arguments by reference to const: the server keeps them alive until the call has completed
struct by_reference {
    using off = const u64&;
    u64 size() const { return 0; }
    void read(off, const to&) {}
    void write(off, const from&, const nbd::write_flags&) {}
    void write_zeroes(off, off, const nbd::zero_flags&) {}
    void trim(off, off) {}
    void cache(off, off) {}
    void extents(off, off, nbd::extent_list&) {}
    void resize(off) {}
};
static_assert(backend_is_sound<by_reference>() && nbd::has_fua_write<by_reference>);
static_assert(nbd::has_trim<by_reference> && nbd::has_cache<by_reference>);
static_assert(nbd::has_extents<by_reference> && nbd::has_resize<by_reference>);
static_assert(nbd::has_write_zeroes<by_reference>);

// refused, because they would refer to a temporary: references to non-const, containers by value
struct dangling {
    void read(u64&, to) {}
    void write(u64, from&&) {}
    void trim(u64&&, u64) {}
    void write_zeroes(u64, u64, nbd::zero_flags&) {}
    void flush(nbd::write_flags&&) {}
    void resize(u64&) {}
    std::vector<std::byte> lend(u64, std::size_t) noexcept { return {}; }
    std::vector<nbd::meta_context> meta_contexts() const { return {}; }
    void context_extents(std::size_t, u64, u64, nbd::extent_list&) {}
    struct state {};
    state& open(const nbd::client&) { return kept; }
    state kept;
};
static_assert(!nbd::has_read<dangling> && !nbd::has_write<dangling> && !nbd::has_trim<dangling>);
static_assert(!nbd::has_write_zeroes<dangling> && !nbd::has_flush<dangling>);
static_assert(!nbd::has_resize<dangling> && !nbd::has_lend<dangling>);
static_assert(!nbd::has_meta_contexts<dangling> && !nbd::has_open<dangling>);
struct keeping {
    const std::vector<std::byte>& lend(u64, std::size_t) noexcept { return memory; }
    const std::vector<nbd::meta_context>& meta_contexts() const { return contexts; }
    void context_extents(std::size_t, u64, u64, nbd::extent_list&) {}
    std::vector<std::byte> memory;
    std::vector<nbd::meta_context> contexts;
};
static_assert(nbd::has_lend<keeping> && nbd::has_meta_contexts<keeping>);

// callbacks: members that take a completion, or a type that it converts to
struct calling_back {
    using done = nbd::completion;
    u64 size() const { return 0; }
    void async_read(u64, to, done d) { d(); }
    void async_write(u64, from, nbd::write_flags, done&& d) { d(); }
    void async_flush(auto d) { d(); }
    void async_trim(u64, u64, auto&& d) { d(); }
    void async_write_zeroes(u64, u64, nbd::zero_flags, done d) { d(); }
    void async_cache(u64, u64, done d) { d(); }
    void async_extents(u64, u64, nbd::extent_list&, done d) { d(); }
};
static_assert(nbd::backend<calling_back> && backend_is_sound<calling_back>());
static_assert(nbd::calls_back<calling_back> && nbd::asynchronous<calling_back>);
static_assert(nbd::has_fua_write<calling_back> && !nbd::has_plain_write<calling_back>);
static_assert(nbd::has_write_zeroes<calling_back> && nbd::has_cache<calling_back>);
static_assert(nbd::has_extents<calling_back>);
static_assert(!nbd::calls_back<least> && !nbd::asynchronous<least>);
struct not_calling_back {
    void async_read(u64, to, nbd::completion&) {}
    int async_write(u64, from, nbd::completion) { return 0; }
};
static_assert(!nbd::has_read<not_calling_back> && !nbd::has_write<not_calling_back>);

}  // namespace

namespace {

template <class Backend, class Policy>
void check_served(Policy policy)
{
    // Other programs may run the same test at the same time.
    const auto path =
        std::string(1, char{0}) + "nbd-concepts-backend-" + std::to_string(::getpid());
    nbd::server<nbd::unix_transport, Backend, Policy> server{{.path = path}, {}, std::move(policy)};
    server.exports().add("disk", Backend{});
    server.start();
    server.stop();
    CHECK(server.exports().names().size() == 1);
}

}  // namespace

// Half of them for each policy, `full` for both: each server takes the compiler some seconds.
TEMPLATE_TEST_CASE("concepts/backend: the archetypes are served by a thread for each client", "",
                   least, styles, overloaded, full, opener)
{
    check_served<TestType>(nbd::per_client_threads{});
}

TEMPLATE_TEST_CASE("concepts/backend: the archetypes are served by a pool", "", least_handler,
                   sealed, full, by_reference)
{
    check_served<TestType>(nbd::strand_pool{1});
}
