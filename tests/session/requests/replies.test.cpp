// SPDX-License-Identifier: MIT
// Replies byte by byte, in the three styles.
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/lone_context.hpp"
#include <nbd/session/requests/replies.hpp>

#include <boost/asio/buffer.hpp>

#include <cerrno>
#include <string>
#include <vector>

using namespace nbd_test;
using nbd::protocol::command;
using nbd::protocol::error_value;
using nbd::protocol::reply_style;

namespace {

struct listener {
    std::vector<std::string> heard;
    void at_reply(const nbd::client&, const nbd::protocol::request& r, error_value e)
    {
        heard.push_back("reply " + std::to_string(r.cookie) + " error "
                        + std::to_string(static_cast<std::uint32_t>(e)));
    }
    void at_error(const nbd::client&, const nbd::protocol::request&, const nbd::failure& why)
    {
        heard.push_back("cause " + std::to_string(why.code.value()) + ' ' + why.message());
    }
};
using words = std::vector<std::string>;
using replies_type = nbd::session::replies<listener>;

/// Replies to a client in one style.
struct replying : lone_context<listener> {
    explicit replying(reply_style style) : to{context, style, 64 << 10} {}

    std::string said()
    {
        bytes all(boost::asio::buffer_size(to.out().pieces()));
        boost::asio::buffer_copy(boost::asio::buffer(all), to.out().pieces());
        to.out().sent(all.size());
        return shown(all);
    }

    replies_type to;
};

constexpr nbd::protocol::request read_request{
    .command = command::read, .cookie = 7, .offset = 0x1000, .length = 0x2000};
constexpr nbd::protocol::request trim_request{
    .command = command::trim, .cookie = 8, .offset = 0x1000, .length = 0x2000};

std::string structured(std::string_view flags_type, std::uint64_t cookie, const bytes& payload)
{
    return shown(hex("668e33ef") + hex(flags_type) + big(cookie)
                 + big(static_cast<std::uint32_t>(payload.size())) + payload);
}
std::string extended(std::string_view flags_type, std::uint64_t cookie, std::uint64_t offset,
                     const bytes& payload)
{
    return shown(hex("6e8a278c") + hex(flags_type) + big(cookie) + big(offset)
                 + big(std::uint64_t{payload.size()}) + payload);
}

}  // namespace

TEST_CASE("session/requests/replies: success without data, in each style (P53)")
{
    replying simple{reply_style::simple};
    simple.to.done(read_request);
    CHECK(simple.said() == shown(simple_reply(0, 7)));
    simple.to.done(trim_request);
    CHECK(simple.said() == shown(simple_reply(0, 8)));
    CHECK(simple.observer.heard == words{"reply 7 error 0", "reply 8 error 0"});

    replying chunks{reply_style::structured};
    chunks.to.done(read_request);  // a READ is always structured
    CHECK(chunks.said() == structured("0001 0000", 7, {}));
    chunks.to.done(trim_request);
    CHECK(chunks.said() == shown(simple_reply(0, 8)));
    CHECK(chunks.observer.heard == words{"reply 7 error 0", "reply 8 error 0"});

    replying wide{reply_style::extended};
    wide.to.done(trim_request);  // all replies are extended
    CHECK(wide.said() == extended("0001 0000", 8, 0x1000, {}));
    CHECK(wide.observer.heard == words{"reply 8 error 0"});
}

TEST_CASE("session/requests/replies: an error with its text, in each style (P53, P56)")
{
    for (const auto& r : {read_request, trim_request}) {
        replying simple{reply_style::simple};
        simple.to.error(r, error_value::einval, "no");
        CHECK(simple.said() == shown(simple_reply(22, r.cookie)));

        replying chunks{reply_style::structured};
        chunks.to.error(r, error_value::einval, "no");
        CHECK(chunks.said() == structured("0001 8001", r.cookie, hex("00000016 0002 6e6f")));
        chunks.to.error(r, error_value::eio, "", 0x1800);
        CHECK(chunks.said()
              == structured("0001 8002", r.cookie, hex("00000005 0000 0000000000001800")));

        replying wide{reply_style::extended};
        wide.to.error(r, error_value::enospc, "no", 0x1800);
        CHECK(
            wide.said()
            == extended("0001 8002", r.cookie, 0x1000, hex("0000001c 0002 6e6f 0000000000001800")));
        CHECK(wide.observer.heard == words{"reply " + std::to_string(r.cookie) + " error 28"});
    }
}

TEST_CASE(
    "session/requests/replies: a text is short UTF-8 that is not cut in a character (P2, P22)")
{
    const auto text_of = [](const std::string& from) {
        replying chunks{reply_style::structured};
        chunks.to.error(trim_request, error_value::eio, from);
        bytes all(boost::asio::buffer_size(chunks.to.out().pieces()));
        boost::asio::buffer_copy(boost::asio::buffer(all), chunks.to.out().pieces());
        const auto length = nbd::protocol::load<std::uint16_t>(std::span{all}.subspan(24));
        CHECK(all.size() == 26U + length);
        return as_text(std::span{all}.subspan(26));
    };
    CHECK(text_of("") == "");
    CHECK(text_of(std::string(256, 'x')) == std::string(256, 'x'));
    CHECK(text_of(std::string(5000, 'x')) == std::string(256, 'x'));
    std::string cut_in_a_character(257, 'x');
    cut_in_a_character.replace(255, 2, "\xc3\xa4");
    CHECK(text_of(cut_in_a_character) == std::string(255, 'x'));
    CHECK(text_of("before\xff"
                  "after")
          == "before");
    CHECK(text_of(std::string{"a\0b", 3}) == "a");
}

TEST_CASE("session/requests/replies: data follow their header (P48, P56)")
{
    const auto data = hex("a0a1a2a3");
    replying simple{reply_style::simple};
    CHECK(simple.to.data_header_bytes() == 16);
    simple.to.lend_data(read_request, 0x1000, data);
    CHECK(simple.said() == shown(simple_reply(0, 7) + data));

    replying chunks{reply_style::structured};
    CHECK(chunks.to.data_header_bytes() == 28);
    chunks.to.lend_data(read_request, 0x1000, data);
    CHECK(chunks.said() == structured("0001 0001", 7, hex("0000000000001000") + data));
    chunks.to.lend_data(read_request, 0x1004, data, false);
    CHECK(chunks.said() == structured("0000 0001", 7, hex("0000000000001004") + data));
    CHECK(chunks.observer.heard == words{"reply 7 error 0"});

    replying wide{reply_style::extended};
    CHECK(wide.to.data_header_bytes() == 40);
    wide.to.lend_data(read_request, 0x1004, data);
    CHECK(wide.said() == extended("0001 0001", 7, 0x1000, hex("0000000000001004") + data));
}

TEST_CASE("session/requests/replies: a hole in place of its data (P56)")
{
    replying chunks{reply_style::structured};
    chunks.to.hole(read_request, 0x1800, 0x800, false);
    CHECK(chunks.said() == structured("0000 0002", 7, hex("0000000000001800 00000800")));
    replying wide{reply_style::extended};
    wide.to.hole(read_request, 0x1800, 0x800, true);
    CHECK(wide.said() == extended("0001 0002", 7, 0x1000, hex("0000000000001800 00000800")));
}

TEST_CASE("session/requests/replies: no chunk holds more than 32 MiB of data (P56, P59)")
{
    const bytes data((std::size_t{70} << 20) + 1);
    replying chunks{reply_style::structured};
    chunks.to.lend_data(read_request, 0, data);
    std::vector<std::size_t> sizes;
    for (const auto& piece : chunks.to.out().pieces())
        sizes.push_back(piece.size());
    CHECK(sizes == std::vector<std::size_t>{28, 32 << 20, 28, 32 << 20, 28, (6 << 20) + 1});
    CHECK(chunks.observer.heard == words{"reply 7 error 0"});

    replying exact{reply_style::extended};
    exact.to.lend_data(read_request, 0, std::span{data}.first(32 << 20));
    CHECK(exact.to.out().pieces().size() == 2);

    replying simple{reply_style::simple};
    simple.to.lend_data(read_request, 0, data);
    CHECK(simple.to.out().pieces().size() == 2);
}

TEST_CASE(
    "session/requests/replies: the observer gets a failure's cause, the client its text and offset")
{
    replying chunks{reply_style::structured};
    const std::error_code too_large{EFBIG, std::generic_category()};
    chunks.to.fail(read_request, {too_large, "full"});
    CHECK(chunks.said() == structured("0001 8001", 7, hex("0000001c 0004 66756c6c")));
    CHECK(chunks.observer.heard
          == words{"cause " + std::to_string(EFBIG) + " full", "reply 7 error 28"});

    // without a text: the observer gets the code's message, the client gets the error value's
    const auto with_text = [](std::string_view s) {
        return structured("0001 8001", 7,
                          hex("0000001c") + big(static_cast<std::uint16_t>(s.size())) + text(s));
    };
    chunks.observer.heard.clear();
    chunks.to.fail(read_request, too_large);
    CHECK(chunks.said() == with_text("no space left on the export"));
    CHECK(chunks.observer.heard.at(0)
          == "cause " + std::to_string(EFBIG) + ' ' + too_large.message());
    nbd::failure thrown{too_large, "a secret"};
    thrown.thrown = true;
    chunks.to.fail(read_request, thrown);
    CHECK(chunks.said() == with_text("no space left on the export"));
    CHECK(chunks.observer.heard.at(2) == "cause " + std::to_string(EFBIG) + " a secret");
    chunks.limits.send_error_details = true;
    chunks.to.fail(read_request, too_large);
    CHECK(chunks.said() == with_text(too_large.message()));
    chunks.to.fail(read_request, thrown);
    CHECK(chunks.said() == with_text("a secret"));

    // an offset outside the request is not sent
    for (const std::uint64_t inside : {0x1000U, 0x2fffU}) {
        chunks.to.fail(read_request, {too_large, "", inside});
        CHECK(chunks.said().find("00018002") != std::string::npos);
    }
    for (const std::uint64_t outside :
         {std::uint64_t{0xfff}, std::uint64_t{0x3000}, ~std::uint64_t{0}}) {
        chunks.to.fail(read_request, {too_large, "", outside});
        CHECK(chunks.said().find("00018001") != std::string::npos);
    }
}

TEST_CASE("session/requests/replies: answer is success or the failure")
{
    replying simple{reply_style::simple};
    simple.to.answer(trim_request, {});
    simple.to.answer(trim_request, std::make_error_code(std::errc::io_error));
    CHECK(simple.said() == shown(simple_reply(0, 8) + simple_reply(5, 8)));
}

TEST_CASE("session/requests/replies: the longest reply fits into its reserved space")
{
    for (const auto style : {reply_style::simple, reply_style::structured, reply_style::extended}) {
        replying to{style};
        to.to.error(trim_request, error_value::eio, std::string(5000, 'x'), 0x1000);
        CHECK(boost::asio::buffer_size(to.to.out().pieces()) <= replies_type::most_header);
        CHECK(to.to.data_header_bytes() <= replies_type::most_header);
    }
}
