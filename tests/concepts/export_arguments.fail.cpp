// SPDX-License-Identifier: MIT
// Arguments of export_set that are wrong, or in a wrong order.
// expect UNCOPYABLE_LVALUE: nbd: this backend cannot be copied; pass it to `add` with std::move
// expect UNMOVABLE: nbd: this backend cannot be moved; make it in its place with
// expect NOT_THIS_BACKEND: nbd: the second argument of `add` is a backend
// expect CONSTRUCTOR_ARGUMENT: nbd: the second argument of `add` is a backend
// expect NAME_LAST: nbd: the arguments of `add` are a name, a backend and optionally settings
// expect NAME_ALONE: nbd: the arguments of `add` are a name, a backend and optionally settings
// expect A_STRING_FOR_SETTINGS: nbd: the arguments of `add` are a name, a backend and optionally settings
// expect SETTINGS_SECOND: nbd: the arguments of `add` are a name, a backend and optionally settings
// expect EMPLACE_WITHOUT_SETTINGS: nbd: the arguments of `emplace` are a name, settings and the arguments
// expect EMPLACE_OTHER_ARGUMENTS: nbd: this backend has no constructor that takes these arguments
// expect LOOKUP_WITHOUT_CLIENT: nbd: a lookup is called with a std::string_view and a const nbd::client&
// expect LOOKUP_OF_A_VALUE: nbd: a lookup is called with a std::string_view and a const nbd::client&
// expect AWAITED_LOOKUP_OF_A_VALUE: nbd: a lookup is called with a std::string_view and a const nbd::client&
// expect LIST_THAT_RETURNS: nbd: a listing is called with an nbd::name_list&, and returns void
// expect LIST_BY_VALUE: nbd: a listing is called with an nbd::name_list&, and returns void
// expect UNSOUND_BACKEND: nbd: this backend's flush has the wrong shape; expected
// expect SHARED_WITH_A_SERVER: nbd: this backend's flush has the wrong shape; expected
// expect UNKNOWN_SETTING: nbd: a wrong member in braces; `export_settings{...}` says which
// expect UNKNOWN_SETTING_OF_EMPLACE: nbd: a wrong member in braces; `export_settings{...}` says it
// expect REFERENCE: nbd: a backend is a class that is not const
#include <nbd/server.hpp>

struct disk {
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
};
struct movable : disk {
    movable() = default;
    movable(movable&&) = default;
};
struct fixed : disk {
    fixed() = default;
    fixed(fixed&&) = delete;
};

int main()
{
#if defined UNCOPYABLE_LVALUE
    movable d;
    nbd::export_set<movable> set;
    set.add("disk", d);
#elif defined UNMOVABLE
    nbd::export_set<fixed> set;
    set.add("disk", fixed{});
#elif defined NOT_THIS_BACKEND
    nbd::export_set<disk> set;
    set.add("disk", nbd::mem_backend{512});
#elif defined CONSTRUCTOR_ARGUMENT
    nbd::export_set<nbd::mem_backend> set;
    set.add("disk", 1'000'000);
#elif defined NAME_LAST
    nbd::export_set<disk> set;
    set.add(disk{}, "disk");
#elif defined NAME_ALONE
    nbd::export_set<disk> set;
    set.add("disk");
#elif defined A_STRING_FOR_SETTINGS
    nbd::export_set<disk> set;
    set.add("disk", disk{}, "a description");
#elif defined SETTINGS_SECOND
    nbd::export_set<disk> set;
    set.add("disk", nbd::export_settings{}, disk{});
#elif defined EMPLACE_WITHOUT_SETTINGS
    nbd::export_set<nbd::mem_backend> set;
    set.emplace("disk", 1'000'000);
#elif defined EMPLACE_OTHER_ARGUMENTS
    nbd::export_set<disk> set;
    set.emplace("disk", {}, 1'000'000);
#elif defined LOOKUP_WITHOUT_CLIENT
    nbd::export_set<disk> set;
    set.on_lookup([](std::string_view) { return std::make_shared<disk>(); });
#elif defined LOOKUP_OF_A_VALUE
    nbd::export_set<disk> set;
    set.on_lookup([](std::string_view, const nbd::client&) { return disk{}; });
#elif defined AWAITED_LOOKUP_OF_A_VALUE
    nbd::export_set<disk> set;
    set.on_lookup([](std::string_view, const nbd::client&) -> boost::asio::awaitable<disk> {
        co_return disk{};
    });
#elif defined LIST_THAT_RETURNS
    nbd::export_set<disk> set;
    set.on_list([](nbd::name_list&) { return 1; });
#elif defined LIST_BY_VALUE
    nbd::export_set<disk> set;
    set.on_list([](nbd::name_list) {});
#elif defined UNSOUND_BACKEND
    struct wrong : disk {
        void flush(int) {}
    };
    nbd::export_set<wrong> set;
    set.add("disk", wrong{}, {.read_only = true});
    set.emplace("disk", {});
    set.remove("disk", {.clients = nbd::disconnect_after{}});
    set.on_lookup([](std::string_view, const nbd::client&) { return std::make_shared<wrong>(); });
    set.on_list([](nbd::name_list& to) { to.add("disk"); });
    set.set_read_only("disk", set.contains("disk"));
    set.find("disk")->flush(1);
#elif defined SHARED_WITH_A_SERVER
    struct wrong : disk {
        void flush(int) {}
    };
    const auto set = std::make_shared<nbd::export_set<wrong>>();
    nbd::server<nbd::unix_transport, wrong> server{{.listen = {.path = "s"}, .exports = set}};
#elif defined UNKNOWN_SETTING
    nbd::export_set<disk> set;
    set.add("disk", disk{}, {.readonly = true});
#elif defined UNKNOWN_SETTING_OF_EMPLACE
    nbd::export_set<disk> set;
    set.emplace("disk", {.readonly = true});
#elif defined REFERENCE
    nbd::export_set<disk&> set;
    set.add("disk", disk{});
#else
    nbd::export_set<disk> set;
    disk d;
    const disk c;
    const nbd::export_settings read_only{.read_only = true};
    set.add("1", d);
    set.add("2", c, read_only);
    set.add("3", {}, {.description = "text"});
    set.add(std::string{"4"}, std::move(d));
    set.emplace("5", {});
    set.on_lookup([](std::string_view, const nbd::client&) { return std::make_shared<disk>(); });
    set.on_lookup([](std::string_view,
                     const nbd::client&) -> boost::asio::awaitable<nbd::found_export<disk>> {
        co_return nbd::found_export<disk>{std::make_shared<disk>(), {.read_only = true}};
    });
    set.on_list([](nbd::name_list& to) { to.add("disk", "a description"); });
    nbd::export_set<movable> moved;
    moved.add("1", movable{});
    nbd::export_set<fixed> made;
    made.emplace("1", {.read_only = true});
#endif
}
