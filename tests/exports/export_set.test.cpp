// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/open.hpp"
#include <nbd/exports/export_set.hpp>

#include <cerrno>
#include <limits>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

using namespace nbd::protocol::transmission_flag;
using Catch::Matchers::ContainsSubstring;
using std::string_literals::operator""s;

namespace {

/// A disk of this size, which reports its destruction.
struct disk {
    explicit disk(std::uint64_t size, int* alive = nullptr) : size_{size}, alive_{alive}
    {
        if (alive_ != nullptr)
            ++*alive_;
    }
    disk(disk&& other) noexcept : size_{other.size_}, alive_{std::exchange(other.alive_, nullptr)}
    {
    }
    ~disk()
    {
        if (alive_ != nullptr)
            --*alive_;
    }
    std::uint64_t size() const { return size_; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t, std::span<const std::byte>) {}
    std::uint64_t size_;
    int* alive_;
};
struct coarse_disk : disk {
    using disk::disk;
    nbd::block_sizes block_sizes() const { return {4096, 4096, 1 << 20}; }
};

struct resizable_disk : disk {
    using disk::disk;
    void resize(std::uint64_t) {}
};
/// Has the abilities that a test sets.
struct modest_disk : resizable_disk {
    modest_disk(const nbd::abilities& now, int& asked)
        : resizable_disk{1 << 20}, now_{now}, asked_{asked}
    {
    }
    nbd::abilities abilities() const { return ++asked_, now_; }
    const nbd::abilities& now_;
    int& asked_;
};
struct opens_modest_disks {
    struct state : disk {
        explicit state(const nbd::abilities& now) : disk{1 << 20}, now_{now} {}
        nbd::abilities abilities() const { return now_; }
        const nbd::abilities& now_;
    };
    explicit opens_modest_disks(const nbd::abilities& now) : now_{now} {}
    state open(const nbd::client&) { return state{now_}; }
    const nbd::abilities& now_;
};
struct forgetful_disk : disk {
    explicit forgetful_disk(const bool& i) : disk{1 << 20}, ill{i} {}
    nbd::abilities abilities() const
    {
        if (ill)
            throw std::system_error{EIO, std::generic_category()};
        return {};
    }
    const bool& ill;
};
/// Throws from block_sizes() if a test wants that.
struct moody_disk : resizable_disk {
    explicit moody_disk(const bool& i) : resizable_disk{1 << 20}, ill{i} {}
    nbd::block_sizes block_sizes() const
    {
        if (ill)
            throw std::system_error{EIO, std::generic_category()};
        return {};
    }
    const bool& ill;
};
struct one_for_each {
    resizable_disk open(const nbd::client&) { return resizable_disk{1 << 20}; }
};

const nbd::client somebody{.id = 1, .peer = "somebody"};

template <class B>
auto open(const nbd::export_set<B>& set, std::string_view name)
{
    std::error_code error;
    auto opened = nbd_test::open(set, name, somebody, error);
    CHECK(opened.has_value() == !error);
    return opened;
}
template <class B>
std::string opened_name(const nbd::export_set<B>& set, std::string_view name)
{
    auto opened = open(set, name);
    return opened ? std::string{opened->info().name} : "none";
}
using names = std::vector<std::string>;

}  // namespace

TEST_CASE("export_set: exports are added, named in order, opened and removed")
{
    nbd::export_set<disk> set;
    CHECK(set.names().empty());
    set.add("b", disk{20});
    set.add("a", disk{10});
    set.emplace("c", {}, std::uint64_t{30});
    CHECK(set.names() == names{"a", "b", "c"});
    CHECK(open(set, "a")->info().terms.size == 10);
    CHECK(open(set, "c")->info().terms.size == 30);
    CHECK(set.remove("b"));
    CHECK_FALSE(set.remove("b"));
    CHECK_FALSE(set.remove("nosuch"));
    CHECK(set.names() == names{"a", "c"});
    std::error_code error;
    CHECK_FALSE(nbd_test::open(set, "b", somebody, error));
    CHECK(error == nbd::errc::unknown_export);
}

TEST_CASE("export_set: an export with `open` does not offer RESIZE")
{
    const auto offers_resize = [](const auto& set) {
        return (open(set, "x")->info().terms.flags & nbd::protocol::transmission_flag::send_resize)
            != 0;
    };
    const nbd::export_settings allowing{.allow_resize = true};
    nbd::export_set<resizable_disk> one_for_all;
    one_for_all.add("x", resizable_disk{1 << 20}, allowing);
    CHECK(offers_resize(one_for_all));
    nbd::export_set<one_for_each> set;
    set.add("x", one_for_each{}, allowing);
    CHECK_FALSE(offers_resize(set));
    auto opened = open(set, "x");
    CHECK(opened->resize(1 << 21) == std::errc::not_supported);
}

TEST_CASE("export_set: a resize that throws is an error")
{
    bool ill = false;
    nbd::export_set<moody_disk> set;
    set.emplace("x", {.allow_resize = true}, ill);
    auto opened = open(set, "x");
    ill = true;
    CHECK(opened->resize(1 << 21) == std::errc::io_error);
    CHECK(opened->size() == 1 << 20);
}

TEST_CASE("export_set: the name, terms and description of an export")
{
    nbd::export_set<disk> set;
    nbd::export_settings e;
    set.add("plain", disk{1024});
    e.description = "A text";
    e.read_only = true;
    e.rotational = true;
    e.blocks = nbd::block_sizes{512, 4096, 1 << 16};
    set.add("full", disk{1024}, e);

    const auto plain = open(set, "plain");
    CHECK(plain->info().description == "plain");
    CHECK(plain->info().terms.flags == (has_flags | send_write_zeroes));
    CHECK(plain->info().terms.blocks == nbd::block_sizes{});
    const auto full = open(set, "full");
    CHECK(full->info().description == "A text");
    CHECK(full->info().terms.flags == (has_flags | read_only | rotational));
    CHECK(full->info().terms.blocks == nbd::block_sizes{512, 4096, 1 << 16});
}

TEST_CASE("export_set: the backend's abilities are asked for each client that opens the export")
{
    nbd::export_set<modest_disk> set;
    int asked = 0;
    nbd::abilities now{.read_only = true};
    set.emplace("disk", {.allow_resize = true}, now, asked);
    CHECK(asked == 1);  // `add` checks them
    const auto first = open(set, "disk");
    CHECK(asked == 2);
    CHECK(first->info().terms.flags == (has_flags | read_only));
    now = {.write_zeroes = false, .rotational = true};
    CHECK(open(set, "disk")->info().terms.flags == (has_flags | rotational | send_resize));
    CHECK(first->info().terms.flags == (has_flags | read_only));
    CHECK(asked == 3);
    CHECK_FALSE(set.resize("disk", 1 << 21));
    CHECK(asked == 3);

    // The export's settings withhold more.
    set.emplace("other", {.read_only = true}, now, asked);
    CHECK(open(set, "other")->info().terms.flags == (has_flags | read_only | rotational));
}

TEST_CASE("export_set: the object that `open` returns has abilities")
{
    const nbd::abilities now{.read_only = true};
    nbd::export_set<opens_modest_disks> set;
    set.emplace("disk", {}, now);
    CHECK(open(set, "disk")->info().terms.flags == (has_flags | read_only));
}

TEST_CASE("export_set: abilities that throw refuse the client")
{
    bool ill = false;
    nbd::export_set<forgetful_disk> set;
    set.emplace("x", {}, ill);
    ill = true;
    std::error_code error;
    CHECK_FALSE(nbd_test::open(set, "x", somebody, error));
    CHECK(error == std::errc::io_error);
}

TEST_CASE("export_set: an export's block sizes override the backend's")
{
    nbd::export_set<coarse_disk> set;
    set.add("own", coarse_disk{8192});
    nbd::export_settings e;
    e.blocks = nbd::block_sizes{8192, 16384, 1 << 21};
    set.add("set", coarse_disk{8192}, e);
    CHECK(open(set, "own")->info().terms.blocks == nbd::block_sizes{4096, 4096, 1 << 20});
    CHECK(open(set, "set")->info().terms.blocks == nbd::block_sizes{8192, 16384, 1 << 21});
    // The backend cannot serve smaller blocks.
    e.blocks = nbd::block_sizes{2048, 4096, 1 << 20};
    CHECK_THROWS_AS(set.add("small", coarse_disk{8192}, e), std::invalid_argument);
    CHECK_THROWS_WITH(set.add("small", coarse_disk{8192}, e),
                      ContainsSubstring("(2048)") && ContainsSubstring("(4096)"));
    CHECK(set.names() == names{"own", "set"});
}

TEST_CASE("export_set: an error names the wrong argument, and the set is unchanged")
{
    nbd::export_set<disk> set;
    set.add("there", disk{1});
    const auto refused = [&](std::string name, std::uint64_t size, nbd::export_settings e,
                             const char* what) {
        CHECK_THROWS_AS(set.add(name, disk{size}, e), std::invalid_argument);
        CHECK_THROWS_WITH(set.add(name, disk{size}, e), ContainsSubstring(what));
        CHECK(set.names() == names{"there"});
    };
    refused("there", 1, {}, "already an export named \"there\"");
    refused("a\0b"s, 1, {}, "name");
    refused("\xff", 1, {}, "name");
    refused(std::string(4097, 'x'), 1, {}, "name");
    nbd::export_settings e;
    e.description = "\xc0\xaf";
    refused("new", 1, e, "description");
    e.description = std::string(4097, 'x');
    refused("new", 1, e, "description");
    refused("new", 1ULL << 63, {}, "size");
    refused("new", std::numeric_limits<std::uint64_t>::max(), {}, "size");
    e = {};
    e.blocks = nbd::block_sizes{3, 4096, 1 << 20};
    refused("new", 3, e, "block sizes");
    e.blocks = nbd::block_sizes{1, 4096, 4095};
    refused("new", 3, e, "block sizes");
    e.blocks = nbd::block_sizes{512, 4096, 1 << 20};
    refused("new", 513, e, "513");
    refused("new", 513, e, "minimum block size (512)");

    set.add("", disk{0});
    set.add(std::string(4096, 'x'), disk{(1ULL << 63) - 1});
    CHECK(set.names().size() == 3);
}

TEST_CASE("export_set: the empty name opens the default export, which is the first one added")
{
    nbd::export_set<disk> set;
    CHECK(opened_name(set, "") == "none");
    set.add("b", disk{1});
    set.add("a", disk{1});
    CHECK(opened_name(set, "") == "b");
    set.set_default("a");
    CHECK(opened_name(set, "") == "a");
    set.set_default(std::nullopt);
    CHECK(opened_name(set, "") == "none");
    set.set_default("later");
    CHECK(opened_name(set, "") == "none");
    set.add("later", disk{1});
    CHECK(opened_name(set, "") == "later");
    set.remove("later");
    CHECK(opened_name(set, "") == "none");
    set.add("", disk{1});
    CHECK(opened_name(set, "") == "");
}

TEST_CASE("export_set: after the default was cleared, later exports do not become it")
{
    nbd::export_set<disk> set;
    set.set_default(std::nullopt);
    set.add("a", disk{1});
    CHECK(opened_name(set, "") == "none");
}

TEST_CASE("export_set: an export whose name is empty takes precedence over the default")
{
    nbd::export_set<disk> set;
    set.add("first", disk{1});
    set.add("", disk{2});
    CHECK(open(set, "")->info().terms.size == 2);
}

TEST_CASE("export_set: a backend lives until it is removed and its last client has left (L07)")
{
    int alive = 0;
    nbd::export_set<disk> set;
    set.add("a", disk{10, &alive});
    {
        auto first = open(set, "a");
        auto second = open(set, "a");
        CHECK_FALSE(first->gone());
        set.remove("a");
        CHECK(first->gone());
        CHECK(second->gone());
        CHECK(alive == 1);
        // a new export of the same name is another export
        set.add("a", disk{20});
        CHECK_FALSE(open(set, "a")->gone());
        CHECK(first->info().terms.size == 10);
        CHECK(open(set, "a")->info().terms.size == 20);
        first.reset();
        CHECK(alive == 1);
    }
    CHECK(alive == 0);
}

TEST_CASE("export_set: exports are visited in order, after a name, until the visitor stops")
{
    nbd::export_set<disk> set;
    for (const auto* const name : {"a", "b", "c"})
        set.add(name, disk{1});
    const auto visited = [&](std::optional<std::string> after, std::size_t limit) {
        std::string all;
        const bool complete =
            set.visit_after(after, [&](std::string_view name, std::string_view text) {
                if (limit-- == 0)
                    return false;
                all += std::string{name} + '=' + std::string{text} + ' ';
                return true;
            });
        return all + (complete ? "." : "...");
    };
    CHECK(visited({}, 0) == "...");
    CHECK(visited({}, 2) == "a=a b=b ...");
    CHECK(visited({}, 100) == "a=a b=b c=c .");
    CHECK(visited("", 100) == "a=a b=b c=c .");
    CHECK(visited("a", 100) == "b=b c=c .");
    CHECK(visited("aa", 1) == "b=b ...");
    CHECK(visited("c", 0) == ".");
    set.add("", disk{1});
    CHECK(visited({}, 1) == "= ...");
    CHECK(visited("", 1) == "a=a ...");
}

TEST_CASE("export_set: find and contains")
{
    nbd::export_set<disk> set;
    CHECK_FALSE(set.contains("a"));
    CHECK(set.find("a") == nullptr);
    const auto a = set.add("a", disk{10});
    CHECK(set.find("a") == a);
    CHECK(set.find("") == a);  // the default export
    CHECK(set.contains("a"));
    CHECK_FALSE(set.contains("b"));
    set.remove("a");
    CHECK_FALSE(set.contains("a"));
    CHECK_FALSE(set.contains(""));
}

TEST_CASE("export_set: a description and read-only change for clients that open afterwards")
{
    nbd::export_set<disk> set;
    set.add("x", disk{1024}, {.description = "before", .rotational = true});
    const auto before = open(set, "x");
    CHECK(set.set_description("x", "after"));
    CHECK(set.set_read_only("x", true));
    const auto after = open(set, "x");
    CHECK(before->info().description == "before");
    CHECK((before->info().terms.flags & read_only) == 0);
    CHECK(after->info().description == "after");
    CHECK(after->info().terms.flags == (has_flags | read_only | rotational));
    CHECK(set.set_description("x", std::nullopt));
    CHECK(set.set_read_only("x", false));
    CHECK(open(set, "x")->info().description == "x");
    CHECK((open(set, "x")->info().terms.flags & read_only) == 0);

    CHECK_FALSE(set.set_description("y", "text"));
    CHECK_FALSE(set.set_read_only("y", true));
    CHECK_THROWS_WITH(set.set_description("x", "\xff"), ContainsSubstring("UTF-8"));
    CHECK(open(set, "x")->info().description == "x");

    set.remove("x");
    CHECK(before->gone());  // those that opened it before a change, too
    CHECK(after->gone());
}

// --- lookups ------------------------------------------------------------------------------------

namespace {

struct looked_up_disk : disk {
    looked_up_disk(std::uint64_t size, int& sizes) : disk{size}, asked{&sizes} {}
    std::uint64_t size() const
    {
        ++*asked;
        return disk::size();
    }
    void resize(std::uint64_t) {}
    int* asked;
};

}  // namespace

TEST_CASE("export_set: all that look up one object share its size and its lock, by every name")
{
    int sizes = 0;
    nbd::export_set<looked_up_disk> set;
    const auto object = std::make_shared<looked_up_disk>(1 << 20, sizes);
    const nbd::export_settings resizable{.allow_resize = true};
    nbd::failure why;
    const auto opened = [&](const char* name) {
        return nbd::exports::open(set.looked_up(name, {object, resizable}), somebody,
                                  nbd::open_purpose::transmission, why);
    };
    auto one = opened("monday");
    auto two = opened("monday");
    auto alias = opened("latest");
    REQUIRE((one && two && alias));
    CHECK(sizes == 1);
    CHECK(one->info().name == "monday");
    CHECK(alias->info().name == "latest");
    CHECK_FALSE(one->resize(1 << 21));
    CHECK(two->size() == 1 << 21);
    CHECK(alias->size() == 1 << 21);
    {
        const auto lock = one->lock();
        CHECK(alias->resize(1 << 20) == std::errc::resource_deadlock_would_occur);
    }
    CHECK(set.remove("monday"));
    CHECK(one->gone());
    CHECK(two->gone());
    CHECK_FALSE(alias->gone());
    CHECK_FALSE(set.remove("monday"));
    CHECK_FALSE(opened("monday")->gone());
}

TEST_CASE("export_set: an export that was added can be looked up by other names")
{
    int sizes = 0;
    nbd::export_set<looked_up_disk> set;
    auto added = set.emplace("own", {}, std::uint64_t{1 << 20}, sizes);
    nbd::failure why;
    const auto alias = nbd::exports::open(set.looked_up("alias", {added, {}}), somebody,
                                          nbd::open_purpose::transmission, why);
    const auto own = open(set, "own");
    CHECK(sizes == 1);
    CHECK_FALSE(set.resize("own", 1 << 21));
    CHECK(alias->size() == 1 << 21);
    CHECK(own->size() == 1 << 21);
}

TEST_CASE("export_set: an object that was looked up lives while a client has it open")
{
    int alive = 0;
    nbd::export_set<disk> set;
    nbd::failure why;
    {
        const auto opened =
            nbd::exports::open(set.looked_up("x", {std::make_shared<disk>(512U, &alive), {}}),
                               somebody, nbd::open_purpose::transmission, why);
        CHECK(alive == 1);
    }
    CHECK(alive == 0);
    CHECK_FALSE(set.remove("x"));
    CHECK(set.looked_up("x", {}) == nullptr);
    CHECK_THROWS_WITH(
        set.looked_up(
            "x", {std::make_shared<disk>(513U), {.blocks = nbd::block_sizes{512, 4096, 1 << 20}}}),
        ContainsSubstring("multiple"));
}
