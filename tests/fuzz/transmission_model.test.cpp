// SPDX-License-Identifier: MIT
// The reference model of the transmission phase accepts right replies, and refuses each kind of
// wrong one.
#include "fuzz/transmission_model.hpp"

#include "catch.hpp"
#include "fuzz/talk.hpp"
#include "support/bytes.hpp"

#include <cerrno>
#include <optional>
#include <string>

using namespace nbd_test;

namespace {

using nbd_model::difference;
using nbd_model::reply_form;

constexpr unsigned writable = 1 | 4 | 8 | 0x20 | 0x40 | 0x400;  // FLUSH, FUA, TRIM, ZEROES, CACHE
constexpr unsigned all_flags = writable | 0x80 | 0x800 | 0x200 | 0x1000;
constexpr std::uint16_t read_ = 0, write_ = 1, disc = 2, flush = 3, trim = 4, zeroes = 6,
                        status = 7, resize = 8;

/// 64 KiB whose first half is `pattern`, and zeroes.
bytes content()
{
    return pattern(32'768) + bytes(32'768);
}
bytes part(std::size_t offset, std::size_t n)
{
    const auto all = content();
    return {all.begin() + static_cast<std::ptrdiff_t>(offset),
            all.begin() + static_cast<std::ptrdiff_t>(offset + n)};
}

/// A model and what the two sides say.
struct talk : talk_with_model<talk> {
    explicit talk(reply_form form = reply_form::simple, bool in_order = true,
                  std::uint32_t block = 1, unsigned flags = all_flags)
        : model{{.size = 65'536,
                 .flags = form == reply_form::simple ? flags & ~0x1080U : flags,
                 .minimum_block = block,
                 .maximum_payload = 32'768,
                 .form = form,
                 .contexts = form == reply_form::simple
                     ? std::vector<nbd_model::context>{}
                     : std::vector<nbd_model::context>{{5, true}, {6, false}}},
                disk,
                in_order}
    {
    }
    talk(const talk&) = delete;
    talk& operator=(const talk&) = delete;

    nbd_model::image disk{content()};
    nbd_model::transmission model;
};

bytes chunk(std::uint16_t type, const bytes& payload, std::uint16_t flags = 1,
            std::uint64_t cookie = 7)
{
    return hex("668e33ef") + big(flags) + big(type) + big(cookie)
        + big(static_cast<std::uint32_t>(payload.size())) + payload;
}
bytes extended_chunk(std::uint16_t type, const bytes& payload, std::uint64_t offset,
                     std::uint16_t flags = 1, std::uint64_t cookie = 7)
{
    return hex("6e8a278c") + big(flags) + big(type) + big(cookie) + big(offset)
        + big(std::uint64_t{payload.size()}) + payload;
}
bytes extended_request(std::uint16_t command, std::uint64_t offset, std::uint64_t length,
                       std::uint16_t flags = 0)
{
    return hex("21e41c71") + big(flags) + big(command) + big(std::uint64_t{7}) + big(offset)
        + big(length);
}
bytes data(std::uint64_t offset, std::size_t n, std::uint16_t flags = 1)
{
    return chunk(1, big(offset) + part(static_cast<std::size_t>(offset), n), flags);
}
bytes hole(std::uint64_t offset, std::uint32_t n, std::uint16_t flags = 1)
{
    return chunk(2, big(offset) + big(n), flags);
}
bytes error_chunk(std::uint32_t error, const std::string& why = "why")
{
    return chunk(0x8001, big(error) + big(static_cast<std::uint16_t>(why.size())) + text(why));
}
bytes descriptors(std::uint32_t id, const std::vector<std::pair<std::uint32_t, std::uint32_t>>& all,
                  std::uint16_t flags)
{
    auto payload = big(id);
    for (const auto& [length, state] : all)
        payload = payload + big(length) + big(state);
    return chunk(5, payload, flags);
}

struct wrong_reply {
    const char* what;
    bytes reply;
};

}  // namespace

TEST_CASE("fuzz/transmission_model: simple replies")
{
    const auto asked = request(read_, 7, 100, 5);
    CHECK_FALSE(talk{}.asks(asked).refuses(simple_reply(0, 7) + part(100, 5)));
    for (const auto& [what, reply] : std::vector<wrong_reply>{
             {"none", {}},
             {"twice", simple_reply(0, 7) + part(100, 5) + simple_reply(0, 7) + part(100, 5)},
             {"magic", hex("67446699") + big(0U) + big(std::uint64_t{7}) + part(100, 5)},
             {"chunk", data(100, 5)},
             {"cookie", simple_reply(0, 8) + part(100, 5)},
             {"data of elsewhere", simple_reply(0, 7) + part(101, 5)},
             {"data cut short", simple_reply(0, 7) + part(100, 4)},
             {"data too long", simple_reply(0, 7) + part(100, 6)},
             {"error without cause", simple_reply(5, 7)},
             {"data after an error", simple_reply(22, 7) + part(100, 5)}}) {
        CAPTURE(what);
        CHECK(talk{}.asks(asked).refuses(reply));
    }
    CHECK(talk{}.refuses(simple_reply(0, 7)));  // a reply to no request
    CHECK(talk{}.asks(request(disc, 7, 0, 0)).refuses(simple_reply(0, 7)));
    CHECK_FALSE(talk{}.asks(request(disc, 7, 0, 0)).refuses({}));
}

TEST_CASE("fuzz/transmission_model: the error values of refused requests")
{
    struct refused {
        bytes asked;
        std::uint32_t error;
        unsigned flags = all_flags;
        std::uint32_t block = 1;
    };
    for (const auto& row : std::vector<refused>{
             {request(read_, 7, 65'536, 1), 22},
             {request(trim, 7, 65'000, 1000), 22},
             {request(write_, 7, 65'535, 2) + bytes(2), 28},
             {request(zeroes, 7, ~std::uint64_t{0}, 2), 28},
             {request(read_, 7, 0, 32'769), 22},
             {request(read_, 7, 1, 512), 22, all_flags, 512},
             {request(99, 7, 0, 0), 22},
             {request(status, 7, 0, 512), 22},
             {request(read_, 7, 0, 1, 2), 22},
             {request(flush, 7, 1, 0), 22},
             {request(trim, 7, 0, 1), 22, writable & ~0x20U},
             {request(write_, 7, 0, 1) + bytes(1), 1, 3},
             {request(zeroes, 7, 0, 1, 16), 22, writable},
         }) {
        CAPTURE(shown(row.asked));
        const auto answer = [&](std::uint32_t e) {
            return talk{reply_form::simple, true, row.block, row.flags}.asks(row.asked).refuses(
                simple_reply(e, 7));
        };
        CHECK_FALSE(answer(row.error));
        CHECK(answer(0));
        for (const std::uint32_t other : {5U, 12U, 75U, 95U, 99U, 108U})
            CHECK(answer(other));
    }
}

TEST_CASE("fuzz/transmission_model: the errors of the backend, as the specification names them")
{
    using nbd_model::call;
    struct failed {
        int error;
        std::uint32_t value;
        std::uint16_t command = read_;
        std::uint16_t flags = 0;
    };
    for (const auto& row : std::vector<failed>{{EIO, 5},
                                               {EACCES, 1},
                                               {EROFS, 1},
                                               {ENOMEM, 12},
                                               {EFBIG, 28},
                                               {ESHUTDOWN, 108},
                                               {EINVAL, 22},
                                               {EBADF, 5},
                                               {ENOTSUP, 22},
                                               {ENOTSUP, 95, zeroes, 16},
                                               {EOVERFLOW, 22},
                                               {EOVERFLOW, 75, read_, 4}}) {
        CAPTURE(row.error, row.command);
        const auto answer = [&](std::uint32_t e) {
            talk t{reply_form::structured};
            t.asks(request(row.command, 7, 0, 512, row.flags));
            t.model.backend_failed(row.command == read_ ? call::read : call::write_zeroes,
                                   row.error, 0, 512);
            return t.refuses(error_chunk(e));
        };
        CHECK_FALSE(answer(row.value));
        CHECK(answer(row.value == 5 ? 22 : 5));
    }
    talk kept{};
    kept.asks(request(read_, 7, 0, 5));
    kept.model.backend_failed(call::read, EIO, 0, 5);
    CHECK(kept.refuses(simple_reply(0, 7) + part(0, 5)));  // success, although the call has failed
    talk elsewhere{};
    elsewhere.asks(request(read_, 7, 0, 5) + request(read_, 8, 10, 5));
    elsewhere.model.backend_failed(call::read, EIO, 10, 5);
    CHECK(elsewhere.refuses(simple_reply(5, 7) + simple_reply(0, 8) + part(10, 5)));
    talk stopped{};
    CHECK(stopped.asks(request(read_, 7, 0, 5)).refuses(simple_reply(108, 7)));
    talk stopping{};
    stopping.asks(request(read_, 7, 0, 5)).model.server_stops();
    CHECK_FALSE(stopping.refuses(simple_reply(108, 7)));
}

TEST_CASE("fuzz/transmission_model: the chunks of a READ")
{
    const auto asked = request(read_, 7, 32'000, 1000);
    CHECK_FALSE(talk{reply_form::structured}.asks(asked).refuses(data(32'000, 1000)));
    CHECK_FALSE(
        talk{reply_form::structured}.asks(asked).refuses(data(32'768, 232, 0) + data(32'000, 768)));
    CHECK_FALSE(talk{reply_form::structured}.asks(asked).refuses(
        data(32'000, 768, 0) + hole(32'768, 232, 0) + chunk(0, {})));
    for (const auto& [what, reply] : std::vector<wrong_reply>{
             {"simple", simple_reply(0, 7) + part(32'000, 1000)},
             {"simple error", simple_reply(22, 7)},
             {"not DONE", data(32'000, 1000, 0)},
             {"unknown flag", data(32'000, 1000, 3)},
             {"after DONE", data(32'000, 1000) + chunk(0, {})},
             {"gap", data(32'000, 700, 0) + hole(32'768, 232)},
             {"missing end", data(32'000, 999)},
             {"overlap", data(32'000, 769, 0) + hole(32'768, 232)},
             {"outside", data(31'999, 1000)},
             {"hole over data", hole(32'000, 1000)},
             {"hole of no bytes", data(32'000, 1000, 0) + hole(32'000, 0)},
             {"NONE with payload", data(32'000, 1000, 0) + chunk(0, bytes(1))},
             {"NONE without DONE", data(32'000, 1000, 0) + chunk(0, {}, 0) + chunk(0, {})},
             {"data of no bytes", data(32'000, 1000, 0) + chunk(1, big(std::uint64_t{32'000}))},
             {"wrong data", chunk(1, big(std::uint64_t{32'000}) + part(31'999, 1000))},
             {"status", descriptors(5, {{1000, 0}}, 1)},
             {"unknown type", chunk(3, {})},
             {"extended",
              extended_chunk(1, big(std::uint64_t{32'000}) + part(32'000, 1000), 32'000)},
             {"cut", [] {
                  auto most = data(32'000, 1000);
                  most.pop_back();
                  return most;
              }()}}) {
        CAPTURE(what);
        CHECK(talk{reply_form::structured}.asks(asked).refuses(reply));
    }
    // DF: one chunk.
    const auto whole = request(read_, 7, 32'000, 1000, 4);
    CHECK_FALSE(talk{reply_form::structured}.asks(whole).refuses(data(32'000, 1000)));
    CHECK(
        talk{reply_form::structured}.asks(whole).refuses(data(32'000, 768, 0) + hole(32'768, 232)));
}

TEST_CASE("fuzz/transmission_model: error chunks")
{
    const auto asked = request(read_, 7, 65'536, 1);
    CHECK_FALSE(talk{reply_form::structured}.asks(asked).refuses(error_chunk(22)));
    const auto at = [](std::uint64_t offset) {
        return chunk(0x8002, big(22U) + big(std::uint16_t{0}) + big(offset));
    };
    CHECK_FALSE(talk{reply_form::structured}.asks(asked).refuses(at(65'536)));
    for (const auto& [what, reply] : std::vector<wrong_reply>{
             {"no error", error_chunk(0)},
             {"another error", error_chunk(28)},
             {"no UTF-8", error_chunk(22, "\xff")},
             {"NUL", error_chunk(22, std::string(1, '\0'))},
             {"too long", error_chunk(22, std::string(4097, 'x'))},
             {"length", chunk(0x8001, big(22U) + big(std::uint16_t{1}))},
             {"more than the text", chunk(0x8001, big(22U) + big(std::uint16_t{0}) + bytes(1))},
             {"too short", chunk(0x8001, big(22U))},
             {"offset outside", at(65'537)},
             {"two errors",
              chunk(0x8001, big(22U) + big(std::uint16_t{0}), 0) + error_chunk(22)}}) {
        CAPTURE(what);
        CHECK(talk{reply_form::structured}.asks(asked).refuses(reply));
    }
}

TEST_CASE("fuzz/transmission_model: block status")
{
    const auto asked = request(status, 7, 32'256, 1024);
    const auto right = [] {
        return descriptors(5, {{512, 0}, {512, 3}}, 0) + descriptors(6, {{1024, 9}}, 1);
    };
    CHECK_FALSE(talk{reply_form::structured, true, 512}.asks(asked).refuses(right()));
    CHECK_FALSE(talk{reply_form::structured, true, 512}.asks(asked).refuses(
        descriptors(6, {{512, 9}}, 0) + descriptors(5, {{512, 0}, {1024, 3}}, 1)));
    for (const auto& [what, reply] : std::vector<wrong_reply>{
             {"a context is missing", descriptors(5, {{512, 0}}, 1)},
             {"a context twice", descriptors(5, {{512, 0}}, 0) + descriptors(5, {{512, 0}}, 1)},
             {"a context not selected", descriptors(4, {{512, 0}}, 0)},
             {"no descriptor", descriptors(5, {}, 0) + descriptors(6, {{1024, 9}}, 1)},
             {"empty descriptor", descriptors(5, {{0, 0}}, 0) + descriptors(6, {{1024, 9}}, 1)},
             {"part of a block", descriptors(5, {{511, 0}}, 0) + descriptors(6, {{1024, 9}}, 1)},
             {"past the request",
              descriptors(5, {{1024, 0}, {512, 3}}, 0) + descriptors(6, {{1024, 9}}, 1)},
             {"past the export", descriptors(5, {{65'536, 0}}, 0) + descriptors(6, {{1024, 9}}, 1)},
             {"equal neighbours",
              descriptors(5, {{512, 0}, {512, 0}}, 0) + descriptors(6, {{1024, 9}}, 1)},
             {"ZERO over data", descriptors(5, {{1024, 2}}, 0) + descriptors(6, {{1024, 9}}, 1)},
             {"unknown bit", descriptors(5, {{1024, 4}}, 0) + descriptors(6, {{1024, 9}}, 1)},
             {"simple", simple_reply(0, 7)},
             {"the wide type",
              chunk(6, big(5U) + big(1U) + big(std::uint64_t{1024}) + big(std::uint64_t{0}))},
             {"half a descriptor", chunk(5, big(5U) + big(1024U))}}) {
        CAPTURE(what);
        CHECK(talk{reply_form::structured, true, 512}.asks(asked).refuses(reply));
    }
    const auto one = request(status, 7, 32'256, 1024, 8);
    CHECK(talk{reply_form::structured, true, 512}.asks(one).refuses(right()));
    CHECK(talk{reply_form::structured, true, 512}.asks(one).refuses(
        descriptors(5, {{2048, 0}}, 0) + descriptors(6, {{1024, 9}}, 1)));
    CHECK_FALSE(talk{reply_form::structured, true, 512}.asks(one).refuses(
        descriptors(5, {{512, 0}}, 0) + descriptors(6, {{1024, 9}}, 1)));
}

TEST_CASE("fuzz/transmission_model: extended headers")
{
    const auto wide = [](std::uint32_t id, std::uint32_t n, std::uint64_t length) {
        return big(id) + big(n) + big(length) + big(std::uint64_t{0});
    };
    const auto asked = extended_request(flush, 0, 0);
    CHECK_FALSE(talk{reply_form::extended}.asks(asked).refuses(extended_chunk(0, {}, 0)));
    CHECK(talk{reply_form::extended}.asks(asked).refuses(simple_reply(0, 7)));
    CHECK(talk{reply_form::extended}.asks(asked).refuses(chunk(0, {})));
    const auto reads = extended_request(read_, 100, 5);
    const auto found = big(std::uint64_t{100}) + part(100, 5);
    CHECK_FALSE(talk{reply_form::extended}.asks(reads).refuses(extended_chunk(1, found, 100)));
    CHECK(talk{reply_form::extended}.asks(reads).refuses(extended_chunk(1, found, 101)));

    // The payload form of BLOCK_STATUS.
    const auto chooses = [](std::uint64_t n, const std::vector<std::uint32_t>& ids) {
        auto payload = big(n);
        for (const auto id : ids)
            payload = payload + big(id);
        return extended_request(status, 0, payload.size(), 32) + payload;
    };
    CHECK_FALSE(talk{reply_form::extended}
                    .asks(chooses(512, {6}))
                    .refuses(extended_chunk(6, wide(6, 1, 512), 0)));
    CHECK(talk{reply_form::extended}
              .asks(chooses(512, {6}))
              .refuses(extended_chunk(6, wide(5, 1, 512), 0)));
    CHECK(talk{reply_form::extended}
              .asks(chooses(512, {6}))
              .refuses(extended_chunk(6, wide(6, 2, 512), 0)));
    for (const auto& bad :
         {chooses(512, {}), chooses(512, {6, 6}), chooses(512, {7}), chooses(65'537, {6})}) {
        CHECK(talk{reply_form::extended}.asks(bad).refuses(extended_chunk(6, wide(6, 1, 512), 0)));
        CHECK_FALSE(talk{reply_form::extended}.asks(bad).refuses(
            extended_chunk(0x8001, big(22U) + big(std::uint16_t{0}), 0)));
    }
    // A WRITE needs PAYLOAD_LEN. Clients that leave it out are told apart by what follows.
    CHECK_FALSE(talk{reply_form::extended}
                    .asks(extended_request(write_, 0, 4) + extended_request(disc, 0, 0))
                    .refuses(extended_chunk(0x8001, big(22U) + big(std::uint16_t{0}), 0)));
    CHECK_FALSE(talk{reply_form::extended}
                    .asks(extended_request(write_, 0, 4) + hex("01020304"))
                    .refuses(extended_chunk(0, {}, 0)));
}

TEST_CASE("fuzz/transmission_model: what a READ returns after writes")
{
    const auto written = request(write_, 1, 100, 4) + text("abcd");
    const auto reads = request(read_, 2, 99, 6);
    const auto now = part(99, 1) + text("abcd") + part(104, 1);
    talk one_by_one{};
    one_by_one.asks(written).hears(simple_reply(0, 1));
    CHECK_FALSE(one_by_one.asks(reads).refuses(simple_reply(0, 2) + now));
    talk forgotten{};
    forgotten.asks(written).hears(simple_reply(0, 1));
    CHECK(forgotten.asks(reads).refuses(simple_reply(0, 2) + part(99, 6)));

    // In flight together: in order the write comes first, otherwise either may.
    talk in_order{};
    in_order.asks(written + reads).hears(simple_reply(0, 1));
    CHECK(in_order.refuses(simple_reply(0, 2) + part(99, 6)));
    for (const auto& found : {now, part(99, 6)}) {
        talk any{reply_form::simple, false};
        CHECK_FALSE(
            any.asks(written + reads).refuses(simple_reply(0, 2) + found + simple_reply(0, 1)));
    }
    talk beside{reply_form::simple, false};  // but not outside of the write
    CHECK(beside.asks(written + reads)
              .refuses(simple_reply(0, 2) + part(98, 6) + simple_reply(0, 1)));
    talk swapped{};
    CHECK(swapped.asks(written + reads).refuses(simple_reply(0, 2) + now + simple_reply(0, 1)));

    // A write whose payload is incomplete is in flight too.
    const auto after = request(read_, 2, 99, 6) + request(write_, 1, 100, 4) + text("ab");
    CHECK_FALSE(
        talk{}.asks(after).refuses(simple_reply(0, 2) + part(99, 1) + text("ab") + part(102, 3)));
    CHECK(talk{}.asks(after).refuses(simple_reply(0, 2) + text("x") + part(100, 5)));

    // Two writes at a time, and then a READ: either may have been the last.
    const auto other = request(write_, 3, 102, 4) + text("EFGH");
    for (const auto& found : {text("abcdGH"), text("abEFGH")}) {
        talk race{reply_form::simple, false};
        race.asks(written + other).hears(simple_reply(0, 1) + simple_reply(0, 3));
        CHECK_FALSE(race.asks(request(read_, 2, 100, 6)).refuses(simple_reply(0, 2) + found));
    }
    // A refused write changes nothing, a failed one may have changed a part.
    talk refused{reply_form::simple, true, 1, 3};
    refused.asks(written).hears(simple_reply(1, 1));
    CHECK(refused.asks(reads).refuses(simple_reply(0, 2) + now));
    talk failed{};
    failed.asks(written).model.backend_failed(nbd_model::call::write, EIO, 100, 4);
    failed.hears(simple_reply(5, 1));
    CHECK_FALSE(
        failed.asks(reads).refuses(simple_reply(0, 2) + part(99, 2) + text("x") + part(102, 3)));
    // Zeroes, and what is trimmed.
    talk zeroed{};
    zeroed.asks(request(zeroes, 1, 100, 4)).hears(simple_reply(0, 1));
    CHECK_FALSE(
        zeroed.asks(reads).refuses(simple_reply(0, 2) + part(99, 1) + bytes(4) + part(104, 1)));
    talk trimmed{};
    trimmed.asks(request(trim, 1, 100, 4)).hears(simple_reply(0, 1));
    CHECK_FALSE(trimmed.asks(reads).refuses(simple_reply(0, 2) + part(99, 6)));
    talk beyond{};
    beyond.asks(request(trim, 1, 100, 4)).hears(simple_reply(0, 1));
    CHECK(beyond.asks(reads).refuses(simple_reply(0, 2) + bytes(6)));
    // A read that has left out a part of its data.
    talk cleared{};
    cleared.asks(request(read_, 2, 100, 4)).model.backend_left_out(102, 2);
    CHECK_FALSE(cleared.refuses(simple_reply(0, 2) + part(100, 2) + bytes(2)));
    talk leaked{};
    leaked.asks(request(read_, 2, 100, 4)).model.backend_left_out(102, 2);
    CHECK(leaked.refuses(simple_reply(0, 2) + part(100, 2) + text("ab")));
}

TEST_CASE("fuzz/transmission_model: sizes after a RESIZE")
{
    struct after {
        std::uint64_t size;
        std::uint64_t asked;
        std::uint32_t error;
        bool wrong;
    };
    for (const auto& [size, asked, error, wrong] : std::vector<after>{{4096, 4096, 28, false},
                                                                      {4096, 4096, 22, true},
                                                                      {4096, 65'536, 22, false},
                                                                      {70'000, 65'536, 22, true}}) {
        CAPTURE(size, asked, error);
        talk t{};
        t.asks(request(resize, 1, size, 0)).hears(simple_reply(0, 1));
        CHECK(t.asks(request(read_, 2, asked, 1)).refuses(simple_reply(error, 2)) == wrong);
    }
}

TEST_CASE("fuzz/transmission_model: the end of a session")
{
    talk magic{};
    CHECK_FALSE(magic.asks(bytes(28) + request(read_, 7, 0, 1)).refuses({}));
    CHECK(magic.model.finished());
    talk long_payload{};
    CHECK_FALSE(long_payload.asks(request(write_, 7, 0, (32U << 20) + 1)).refuses({}));
    talk incomplete{};
    CHECK_FALSE(incomplete.asks(request(write_, 7, 0, 5) + bytes(4)).refuses({}));
    talk early{};  // the payload has not arrived
    CHECK(early.asks(request(write_, 7, 0, 5) + bytes(4)).refuses(simple_reply(0, 7)));
    talk hung_up{};
    CHECK_THROWS_AS(hung_up.model.ended(true), difference);
    talk broken{};
    broken.asks(request(read_, 7, 0, 1));
    CHECK_NOTHROW(broken.model.ended(false));
}

TEST_CASE("fuzz/transmission_model: a request whose payload is cut off may be answered")
{
    const auto cut_off = [](bool in_order, std::uint32_t error) {
        talk t{reply_form::simple, in_order};
        t.asks(request(write_, 7, 0, 5) + bytes(4)).model.client_ended();
        return t.refuses(simple_reply(error, 7));
    };
    CHECK_FALSE(cut_off(false, 108));
    CHECK(cut_off(false, 0));
    CHECK(cut_off(false, 5));
    CHECK(cut_off(true, 108));
}

TEST_CASE("fuzz/transmission_model: nothing is judged where two requests in flight have one cookie")
{
    const auto both = request(read_, 7, 0, 1) + request(read_, 7, 100, 5);
    CHECK_FALSE(talk{reply_form::simple, false}.asks(both).refuses(simple_reply(5, 8)));
    CHECK(talk{}.asks(both).refuses(simple_reply(5, 8)));
}

TEST_CASE("fuzz/transmission_model: the number of descriptors is limited")
{
    nbd_model::image disk{content()};
    const auto refused = [&](std::size_t limit) {
        nbd_model::transmission model{{.size = 65'536,
                                       .flags = all_flags,
                                       .form = reply_form::structured,
                                       .contexts = {{5, true}},
                                       .most_descriptors = limit},
                                      disk,
                                      true};
        model.client_sent(request(status, 7, 0, 1024));
        try {
            model.server_sent(descriptors(5, {{512, 0}, {512, 1}}, 1));
        } catch (const difference&) {
            return true;
        }
        return false;
    };
    CHECK_FALSE(refused(2));
    CHECK(refused(1));
}

TEST_CASE("fuzz/transmission_model: a RESIZE that must be refused changes no size")
{
    talk t{reply_form::simple, false, 1, all_flags & ~0x200U};
    t.asks(request(resize, 6, 0, 0) + request(read_, 7, 0, 5));
    CHECK(t.refuses(simple_reply(22, 6) + simple_reply(28, 7)));
}
