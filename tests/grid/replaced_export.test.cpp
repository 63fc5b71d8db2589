// SPDX-License-Identifier: MIT
// An export that is replaced during a client's handshake: the selected contexts.
#include "catch.hpp"
#include "grid/chunk_client.hpp"
#include "grid/server_fixture.hpp"

#include <string>
#include <utility>
#include <vector>

namespace {

using namespace grid;
using style = proto::reply_style;
using selection = std::vector<std::pair<std::uint32_t, std::string>>;

constexpr std::uint64_t mib = 1 << 20;

/// Has the given contexts; the status of each is the last character of its name.
class context_disk {
public:
    explicit context_disk(std::vector<std::string> names) : names_{std::move(names)}
    {
        for (const auto& n : names_)
            contexts_.push_back({.name = n, .wide = n.starts_with("x-wide:")});
    }
    context_disk(context_disk&&) = default;
    std::uint64_t size() const { return mib; }
    void read(std::uint64_t, std::span<std::byte>) {}
    std::span<const nbd::meta_context> meta_contexts() const { return contexts_; }
    void context_extents(std::size_t index, std::uint64_t, std::uint64_t length,
                         nbd::extent_list& to)
    {
        to.add(length, static_cast<unsigned char>(names_[index].back()));
    }

private:
    std::vector<std::string> names_;
    std::vector<nbd::meta_context> contexts_;
};

/// Each client gets the contexts of the next element of `lists`.
struct changing_disk {
    std::vector<std::vector<std::string>> lists;
    std::size_t next = 0;
    context_disk open(const nbd::client&) { return context_disk{lists.at(next++)}; }
};

/// The reply to BLOCK_STATUS: each id and its status.
std::string status_of(chunk_client& client)
{
    std::string all;
    for (const auto& c : client.status(0, mib))
        all += std::to_string(c.id) + static_cast<char>(c.extents.at(0).flags);
    return all;
}

}  // namespace

TEMPLATE_TEST_CASE("P43: contexts selected before an export was replaced are found by their names",
                   "", nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, context_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    const std::vector<std::string> before{"x-t:a", "x-t:b", "x-t:c", "x-t:d"};
    server.exports().add("disk", context_disk{before});
    server.start();
    chunk_client client{server.local_endpoint(), style::structured};
    CHECK(client.select("disk", {"x-t:a", "x-t:b", "x-t:d"})
          == selection{{1, "x-t:a"}, {2, "x-t:b"}, {4, "x-t:d"}});
    server.exports().remove("disk");

    SECTION("some are gone, the others have other positions")
    {
        server.exports().add("disk", context_disk{{"x-t:d", "x-t:b"}});
        client.go("disk");
        CHECK(status_of(client) == "2b4d");
    }
    SECTION("all are gone")
    {
        server.exports().add("disk", context_disk{{"x-t:c"}});
        client.go("disk");
        CHECK(client.request(proto::command::block_status, 0, mib).error()
              == proto::error_value::einval);
    }
    SECTION("the export has no contexts any more")
    {
        server.exports().add("disk", context_disk{{}});
        client.go("disk");
        CHECK(client.request(proto::command::block_status, 0, mib).error()
              == proto::error_value::einval);
    }
}

TEMPLATE_TEST_CASE("P43: what `open` returns for GO may have other contexts than for SET", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, changing_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().add(
        "disk", changing_disk{.lists = {{"x-t:a", "x-t:b", "x-t:c"}, {"x-t:z"}, {"x-t:c"}}});
    server.exports().add("other", changing_disk{.lists = {{"x-t:z"}, {"x-t:z"}}});
    server.start();
    chunk_client client{server.local_endpoint(), style::structured};
    client.select("disk", {"x-t:a", "x-t:c"});
    client.info("other");
    client.info("disk");
    client.info("other");
    client.go("disk");
    CHECK(status_of(client) == "3c");
}
