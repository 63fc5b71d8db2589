// SPDX-License-Identifier: MIT
// The defaults are documented: they limit what one client can take from the others.
#include "catch.hpp"
#include <nbd/settings.hpp>

using std::chrono_literals::operator""s;

TEST_CASE("settings: the default limits")
{
    const nbd::settings limits;
    CHECK(limits.max_connections == 100);
    CHECK(limits.places_per_peer == 32);
    CHECK(limits.places_per_identity == 32);
    CHECK(limits.evict_idle_after == std::chrono::minutes{1});
    CHECK(limits.handshake_deadline == 10s);
    CHECK(limits.options_per_handshake == 32);
    CHECK(limits.option_bytes == 65'536);
    CHECK(limits.handshake_bytes == 1'048'576);
    CHECK(limits.exports_listed == 10'000);
    CHECK(limits.extents_per_reply == 131'072);
    CHECK(limits.requests_in_flight == 64);
    CHECK(limits.server_memory == std::size_t{1} << 30);
    CHECK(limits.client_memory == std::size_t{64} << 20);
    CHECK(limits.least_transfer_rate == 32'768);
    CHECK(limits.progress_timeout == 0s);
    CHECK(limits.send_timeout == 0s);
    CHECK(limits.stall_grace == 5s);
    CHECK(limits.idle_timeout == 0s);
    CHECK(limits.stop_grace == 5s);
    CHECK(limits.drain_grace == 30s);
}

TEST_CASE("settings: the default settings of an export withhold nothing")
{
    const nbd::export_settings e;
    CHECK_FALSE(e.description);
    CHECK_FALSE(e.read_only);
    CHECK_FALSE(e.rotational);
    CHECK_FALSE(e.blocks);
    CHECK(e.withhold == 0);
}

TEST_CASE("settings: one option can hold the longest name with all known information types")
{
    // INFO and GO: name_len, 4096 bytes, a count, and types; META_CONTEXT queries come to about 24
    // KiB.
    CHECK(nbd::settings{}.option_bytes >= 24 * 1024 + 4096);
    CHECK(nbd::settings{}.handshake_bytes >= nbd::settings{}.option_bytes);
}
