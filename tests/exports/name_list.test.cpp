// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/exports/name_list.hpp>

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

using names = std::vector<std::string>;

names on_page(const nbd::name_list& page)
{
    names all;
    for (const auto& [name, text] : page.names())
        all.push_back(name);
    return all;
}

/// All names, page by page, as a server asks for them.
names paged(const std::function<void(nbd::name_list&)>& fill, std::size_t* pages = nullptr)
{
    names all;
    std::optional<std::string> position;
    for (bool more = true; more;) {
        nbd::name_list page{position};
        fill(page);
        const auto some = on_page(page);
        all.insert(all.end(), some.begin(), some.end());
        if (!some.empty())
            position = some.back();
        more = page.more() && !some.empty();
        if (pages != nullptr)
            ++*pages;
    }
    return all;
}

names many()
{
    names all;
    for (int i = 0; i < 10'000; ++i)
        all.push_back("snapshot-" + std::to_string(i));
    return all;
}

}  // namespace

TEST_CASE("name_list: names after the position, in bytewise order, each once")
{
    nbd::name_list page{"b"};
    CHECK(page.after() == "b");
    for (const auto* name : {"d", "a", "b", "c", "d", "ab"})
        CHECK(page.add(name));
    CHECK(on_page(page) == names{"c", "d"});
    CHECK_FALSE(page.more());
}

TEST_CASE("name_list: the empty name is one of all, and is not listed again")
{
    nbd::name_list first{std::nullopt};
    first.add("");
    CHECK(on_page(first) == names{""});
    nbd::name_list second{""};
    second.add("");
    second.add("a");
    CHECK(on_page(second) == names{"a"});
    CHECK(first.after() == std::nullopt);
    CHECK(second.after() == "");
}

TEST_CASE("name_list: descriptions; the name where there is none, or one that is not allowed")
{
    nbd::name_list page{std::nullopt};
    page.add("a", "text");
    page.add("b");
    page.add("c", "\xff");
    page.add("d", "");
    page.add("a", "a second time");
    const std::vector<std::pair<std::string, std::string>> all(page.names().begin(),
                                                               page.names().end());
    CHECK(all
          == std::vector<std::pair<std::string, std::string>>{
              {"a", "text"}, {"b", "b"}, {"c", "c"}, {"d", ""}});
}

TEST_CASE("name_list: names that NBD does not allow are ignored")
{
    nbd::name_list page{std::nullopt};
    CHECK(page.add("\xff"));
    CHECK(page.add(std::string(4097, 'x')));
    CHECK(page.add(std::string("a\0b", 3)));
    CHECK(on_page(page).empty());
}

TEST_CASE("name_list: ten thousand names, page by page, whatever their order")
{
    auto sorted = many();
    std::sort(sorted.begin(), sorted.end());
    auto given = GENERATE(0, 1, 2);
    auto order = many();
    if (given == 1)
        order = sorted;
    else if (given == 2)
        order.assign(sorted.rbegin(), sorted.rend());
    std::size_t pages = 0;
    CHECK(paged(
              [&](auto& to) {
                  for (const auto& name : order)
                      to.add(name);
              },
              &pages)
          == sorted);
    CHECK(pages > 20);
    CHECK(pages < 60);
}

TEST_CASE("name_list: a store in bytewise order begins after the position and ends when told")
{
    auto sorted = many();
    sorted.emplace_back();  // also a name is empty
    std::sort(sorted.begin(), sorted.end());
    std::size_t added = 0;
    std::size_t pages = 0;
    CHECK(paged(
              [&](auto& to) {
                  auto at = std::upper_bound(sorted.begin(), sorted.end(), to.after());
                  for (; at != sorted.end(); ++at) {
                      ++added;
                      if (!to.add(*at))
                          break;
                  }
              },
              &pages)
          == sorted);
    CHECK(added == sorted.size() + pages - 1);  // each page but the last refuses one name

    const std::set<std::string, std::less<>> same{sorted.begin(), sorted.end()};
    CHECK(paged([&](auto& to) {
              for (auto at = same.upper_bound(to.after()); at != same.end() && to.add(*at); ++at) {
              }
          })
          == sorted);
}

TEST_CASE("name_list: a page holds its memory, however long the names are")
{
    nbd::name_list page{std::nullopt};
    std::size_t taken = 0;
    for (char c = 'z'; c >= 'a'; --c)
        page.add(std::string(4096, c), std::string(4096, c));
    for (const auto& [name, text] : page.names())
        taken += name.size() + text.size();
    CHECK(taken >= nbd::name_list::page_bytes - 8192);
    CHECK(taken < nbd::name_list::page_bytes + 8192);
    CHECK(page.more());
    CHECK(on_page(page).front().front() == 'a');
}
