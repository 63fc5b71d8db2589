// SPDX-License-Identifier: MIT
// The transmission flags that follow from a backend's type (P46, P58, P65).
#include "catch.hpp"
#include <nbd/transmission/capabilities.hpp>
#include <nbd/vocabulary/call.hpp>

using namespace nbd::protocol::transmission_flag;
using nbd::abilities;
using nbd::transmission::available;
using nbd::transmission::capabilities;
using nbd::transmission::offered;
using bytes_to = std::span<std::byte>;
using bytes_from = std::span<const std::byte>;
using u64 = std::uint64_t;
using std::error_code;

namespace {

struct readable {
    u64 size() const { return 0; }
    void read(u64, bytes_to) {}
};
struct writes {
    void write(u64, bytes_from) {}
};
struct writes_fua {
    void write(u64, bytes_from, nbd::write_flags) {}
};
struct flushes {
    void flush() {}
};
struct trims {
    void trim(u64, u64) {}
};
struct zeroes {
    void write_zeroes(u64, u64, nbd::zero_flags) {}
};
struct caches {
    void cache(u64, u64) {}
};
template <class... Parts>
struct disk : readable, Parts... {};

constexpr unsigned w = has_flags | send_write_zeroes;

// each member by itself
static_assert(capabilities<disk<>>() == (has_flags | read_only));
static_assert(capabilities<disk<writes>>() == w);
static_assert(capabilities<disk<writes_fua>>() == (w | send_fua));
static_assert(capabilities<disk<flushes>>() == (has_flags | read_only | send_flush));
static_assert(capabilities<disk<caches>>() == (has_flags | read_only | send_cache));
// trim and write_zeroes give no flag without write
static_assert(capabilities<disk<trims>>() == (has_flags | read_only));
static_assert(capabilities<disk<zeroes>>() == (has_flags | read_only));
// together with write
static_assert(capabilities<disk<writes, flushes>>() == (w | send_flush | send_fua));
static_assert(capabilities<disk<writes, trims>>() == (w | send_trim));
static_assert(capabilities<disk<writes, zeroes>>() == w);
static_assert(capabilities<disk<writes, caches>>() == (w | send_cache));
static_assert(capabilities<disk<writes_fua, flushes>>() == (w | send_flush | send_fua));
static_assert(capabilities<disk<writes_fua, trims>>() == (w | send_fua | send_trim));
static_assert(capabilities<disk<writes, flushes, trims, zeroes, caches>>()
              == (w | send_flush | send_fua | send_trim | send_cache));

// promises
struct promises_all {
    static constexpr bool multi_conn = true, rotational = true, fast_zero = true;
};
struct promises_none {
    static constexpr bool multi_conn = false, rotational = false, fast_zero = false;
};
static_assert(capabilities<disk<promises_all>>()
              == (has_flags | read_only | can_multi_conn | rotational));
static_assert(capabilities<disk<writes, zeroes, promises_all>>()
              == (w | can_multi_conn | rotational | send_fast_zero));
static_assert(capabilities<disk<writes, zeroes, promises_none>>() == w);

// a backend with `handle` has all abilities that need no promise
struct handler {
    u64 size() const { return 0; }
    void handle(nbd::call&) {}
};
constexpr unsigned everything = w | send_flush | send_fua | send_trim | send_cache;
static_assert(capabilities<handler>() == everything);
struct fast_handler : handler, promises_all {};
static_assert(capabilities<fast_handler>()
              == (everything | can_multi_conn | rotational | send_fast_zero));

// no flag for what the library does not implement (P12)
static_assert((capabilities<fast_handler>() & (send_df | send_resize | block_status_payload)) == 0);

// whether the members are awaited does not matter
struct codes {
    u64 size() const { return 0; }
    error_code read(u64, bytes_to) { return {}; }
    error_code write(u64, bytes_from) { return {}; }
    error_code flush() { return {}; }
};
static_assert(capabilities<codes>() == capabilities<disk<writes, flushes>>());

// --- without what the backend withholds --------------------------------------------------------

struct resizable : fast_handler {
    void resize(u64) {}
};
constexpr std::uint16_t most = capabilities<resizable>() & ~rotational;
static_assert((most & send_resize) != 0);
static_assert(available(most, {}) == most);
static_assert(available(most, {.flush = false}) == (most & ~(send_flush | send_fua)));
static_assert(available(most, {.fua = false}) == (most & ~send_fua));
static_assert(available(most, {.trim = false}) == (most & ~send_trim));
static_assert(available(most, {.write_zeroes = false})
              == (most & ~(send_write_zeroes | send_fast_zero)));
static_assert(available(most, {.fast_zero = false}) == (most & ~send_fast_zero));
static_assert(available(most, {.cache = false}) == (most & ~send_cache));
static_assert(available(most, {.resize = false}) == (most & ~send_resize));
static_assert(available(most, {.multi_conn = false}) == (most & ~can_multi_conn));
static_assert(available(most, {.rotational = true}) == (most | rotational));
// what the type promises stays
static_assert(available(most | rotational, {.rotational = false}) == (most | rotational));
static_assert(available(capabilities<disk<>>(), {.read_only = false}) == (has_flags | read_only));
// the export offers no command that writes
static_assert(nbd::transmission::without_writes(most)
              == (has_flags | read_only | send_flush | send_cache | can_multi_conn));
static_assert(nbd::transmission::without_writes(has_flags | rotational)
              == (has_flags | read_only | rotational));
static_assert(offered(available(most, {.read_only = true}), {.allow_resize = true})
              == (has_flags | read_only | send_flush | send_cache | can_multi_conn));

// --- without what the export withholds --------------------------------------------------------

constexpr std::uint16_t all = capabilities<fast_handler>();
constexpr nbd::export_settings withheld(std::uint16_t flags)
{
    nbd::export_settings e;
    e.withhold = flags;
    return e;
}
constexpr unsigned less(std::uint16_t flags)
{
    return offered(all, withheld(flags));
}
static_assert(offered(all, nbd::export_settings{}) == all);
static_assert(less(send_flush) == (all & ~send_flush));
static_assert(less(send_fua) == (all & ~send_fua));
static_assert(less(send_trim) == (all & ~send_trim));
static_assert(less(send_cache) == (all & ~send_cache));
static_assert(less(can_multi_conn) == (all & ~can_multi_conn));
static_assert(less(send_fast_zero) == (all & ~send_fast_zero));
// FAST_ZERO MUST be clear where WRITE_ZEROES is
static_assert(less(send_write_zeroes) == (all & ~(send_write_zeroes | send_fast_zero)));
// these are not abilities, and cannot be withheld
static_assert(less(has_flags | read_only | rotational) == all);
static_assert(less(0xffff) == (has_flags | rotational));
static_assert(offered(capabilities<disk<>>(), withheld(read_only)) == (has_flags | read_only));

constexpr nbd::export_settings as(bool read_only_export, bool rotational_export)
{
    nbd::export_settings e;
    e.read_only = read_only_export;
    e.rotational = rotational_export;
    return e;
}
// a read-only export keeps the abilities that do not write
static_assert(offered(all, as(true, false))
              == (has_flags | read_only | send_flush | send_cache | can_multi_conn | rotational));
static_assert(offered(capabilities<disk<>>(), as(true, false)) == (has_flags | read_only));
static_assert(offered(capabilities<disk<writes>>(), as(false, true)) == (w | rotational));
static_assert(offered(capabilities<disk<>>(), as(false, true))
              == (has_flags | read_only | rotational));

}  // namespace

TEST_CASE("transmission/capabilities: a backend's abilities add no ability")
{
    constexpr unsigned never = send_flush | send_fua | send_trim | send_write_zeroes
        | send_fast_zero | send_cache | can_multi_conn | send_df | send_resize;
    for (unsigned has = 0; has < 0x2000; ++has) {
        for (const auto& now : {abilities{}, abilities{.read_only = true, .rotational = true},
                                abilities{.flush = false, .write_zeroes = false}}) {
            const unsigned gives = available(static_cast<std::uint16_t>(has), now);
            REQUIRE((gives & ~has & never) == 0);
            REQUIRE((has & ~gives & (has_flags | read_only | rotational)) == 0);
        }
    }
}

TEST_CASE("transmission/capabilities: an export's settings add no ability")
{
    constexpr unsigned never = send_flush | send_fua | send_trim | send_write_zeroes
        | send_fast_zero | send_cache | can_multi_conn | send_df | send_resize;
    for (unsigned has = 0; has < 0x2000; ++has) {
        for (const auto& e :
             {nbd::export_settings{}, as(true, true), withheld(0xffff), withheld(0)}) {
            const unsigned gives = offered(static_cast<std::uint16_t>(has), e);
            REQUIRE((gives & ~has & never) == 0);
            REQUIRE_FALSE(((gives & send_fast_zero) != 0 && (gives & send_write_zeroes) == 0));
        }
    }
}
