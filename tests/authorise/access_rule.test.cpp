// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/authorise/access_rule.hpp>

#include <stdexcept>
#include <string>

namespace {

using nbd::access_rule;
using nbd::client;
using nbd::decision;
using nbd::permission;

const client somebody{.id = 1, .peer = "somebody"};

access_rule says(permission a, const std::string& why)
{
    return [=](const client&) { return decision{a, why}; };
}
const auto no = says(permission::refused, "no");
const auto reads = says(permission::read_only, "reads");
const auto yes = says(permission::full, "yes");

/// The decision, as "full: yes and reads".
std::string made_by(const access_rule& rule)
{
    const auto made = rule(somebody);
    return std::string{made.allowed == permission::full          ? "full"
                           : made.allowed == permission::refused ? "refused"
                                                                 : "read-only"}
    + ": " + made.reason;
}

}  // namespace

TEST_CASE("access_rule: && is the lesser of both")
{
    CHECK(made_by(no && yes) == "refused: no");
    CHECK(made_by(yes && no) == "refused: no");
    CHECK(made_by(no && no) == "refused: no");
    CHECK(made_by(reads && no) == "refused: no");
    CHECK(made_by(yes && reads) == "read-only: yes and reads");
    CHECK(made_by(reads && yes) == "read-only: reads and yes");
    CHECK(made_by(reads && reads) == "read-only: reads and reads");
    CHECK(made_by(yes && yes) == "full: yes and yes");
}

TEST_CASE("access_rule: || is the greater of both")
{
    CHECK(made_by(no || yes) == "full: yes");
    CHECK(made_by(yes || no) == "full: yes");
    CHECK(made_by(reads || yes) == "full: yes");
    CHECK(made_by(yes || reads) == "full: yes");
    CHECK(made_by(no || reads) == "read-only: reads");
    CHECK(made_by(reads || no) == "read-only: reads");
    CHECK(made_by(no || no) == "refused: no and no");
    CHECK(made_by(reads || reads) == "read-only: reads and reads");
}

TEST_CASE("access_rule: ! refuses whom the rule lets in")
{
    CHECK(made_by(!no) == "full: no");
    CHECK(made_by(!yes) == "refused: yes");
    CHECK(made_by(!reads) == "refused: reads");
    CHECK(made_by(!!reads) == "full: reads");
}

TEST_CASE("access_rule: the second rule is asked only where it decides")
{
    int asked = 0;
    const access_rule counted = [&asked](const client&) { return ++asked != 0; };
    CHECK(made_by((yes && reads) || (no && counted)) == "read-only: yes and reads");
    CHECK(made_by(yes || counted) == "full: yes");
    CHECK(asked == 0);
    CHECK(made_by(reads || counted) == "full: a function agrees");
    CHECK(made_by(yes && counted) == "full: yes and a function agrees");
    CHECK(asked == 2);
}

TEST_CASE("access_rule: functions of a program")
{
    const access_rule by_id = [](const client& who) { return who.id == 1; };
    CHECK(made_by(by_id) == "full: a function agrees");
    CHECK(made_by(!by_id) == "refused: a function agrees");
    CHECK(made_by(by_id && [](const client&) { return permission::read_only; })
          == "read-only: a function agrees and a function agrees");
    CHECK(made_by([](const client&) { return false; }) == "refused: a function refuses");
    const access_rule ill = [](const client&) -> bool { throw std::runtime_error{"ill"}; };
    CHECK_THROWS_AS((no || ill)(somebody), std::runtime_error);
    CHECK_THROWS_AS((!ill)(somebody), std::runtime_error);
}
