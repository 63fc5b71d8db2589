// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/tls/psk_keys.hpp>

#include <string>

using nbd::failure;
using nbd::tls::psk_keys;

namespace {

std::string why_not(const std::string& text)
{
    failure why;
    const auto keys = psk_keys::parse(text, "keys.psk", why);
    CHECK(keys.has_value() == !why);
    return why.text;
}

const std::string key(32, 'a');

}  // namespace

TEST_CASE("tls/psk_keys: identities and keys, as psktool writes them")
{
    failure why;
    const auto keys = psk_keys::parse("alice:" + key + "\n\nbob:00ff" + std::string(28, '0')
                                          + "\r\n#2368C3A4:" + key + "\nwith:colon:" + key,
                                      "keys.psk", why);
    REQUIRE(keys);
    CHECK(keys->find("alice") == std::string(16, '\xaa'));
    CHECK(keys->find("bob") == std::string{"\0\xff", 2} + std::string(14, '\0'));
    CHECK(keys->find("#h\xc3\xa4") == std::string(16, '\xaa'));
    CHECK(keys->find("with:colon") == std::string(16, '\xaa'));
    CHECK(keys->find("mallory").empty());
    CHECK(keys->find("").empty());
}

TEST_CASE("tls/psk_keys: an error names the line and what was expected")
{
    CHECK(why_not("alice:" + key).empty());
    CHECK(why_not("")
          == "keys.psk: expected lines identity:key, with the key in hexadecimal digits");
    CHECK(why_not("alice:" + key + "\nnonsense") == "keys.psk:2: expected identity:key");
    const auto bad_key = "keys.psk:1: expected a key of 32 to 512 hexadecimal digits behind the "
                         "colon";
    for (const std::string wrong : {"", "aa", "gg", "aaa"})
        CHECK(why_not("alice:" + wrong) == bad_key);
    CHECK(why_not("alice:" + key + "a") == bad_key);
    CHECK(why_not("alice:" + std::string(30, 'a')) == bad_key);
    CHECK(why_not("alice:" + std::string(514, 'a')) == bad_key);
    CHECK(why_not("alice:" + std::string(512, 'a')).empty());
    const auto bad_identity = "keys.psk:1: expected an identity of 1 to 128 bytes before the colon";
    CHECK(why_not(":" + key) == bad_identity);
    CHECK(why_not("#:" + key) == bad_identity);
    CHECK(why_not("#0:" + key) == bad_identity);
    CHECK(why_not("#00:" + key) == bad_identity);
    CHECK(why_not(std::string(129, 'x') + ":" + key) == bad_identity);
    CHECK(why_not("alice:" + key + "\nalice:" + key)
          == "keys.psk:2: expected another identity: this one has a key already");
}
