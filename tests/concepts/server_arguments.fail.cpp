// SPDX-License-Identifier: MIT
// Arguments of a server that are wrong, or in a wrong order.
// expect REFERENCE: nbd: a backend is a class that is not const
// expect CONST: nbd: a backend is a class that is not const
// expect POINTER: nbd: a backend is a class that is not const
// expect SHARED_POINTER: nbd: a backend needs `std::uint64_t size() const`
// expect INCOMPLETE: nbd: this backend is declared and not defined
// expect LAMBDA: nbd: a function is not a backend; use
// expect BACKEND_FIRST: nbd: the template arguments of a server are in the wrong order
// expect POLICY_SECOND: nbd: the template arguments of a server are in the wrong order
// expect OBSERVER_THIRD: nbd: the template arguments of a server are in the wrong order
// expect POLICY_REFERENCE: nbd: a transport and a threading policy are classes
// expect NOT_A_TRANSPORT: nbd: a transport needs `void close() noexcept`
// expect NOT_A_POLICY: nbd: a threading policy needs `void join()`
// expect TRANSPORT_ALONE_IS_WRONG: nbd: a transport needs `struct settings` and a constructor
// expect A_STRING_FOR_THE_TRANSPORT: nbd: the first argument of a server is the settings of its transport
// expect A_STRING_FOR_SETTINGS: nbd: the arguments of a server are, in this order
// expect POLICY_FOR_SETTINGS: nbd: the arguments of a server are, in this order
// expect NUMBER_FOR_POLICY: nbd: the arguments of a server are, in this order
// expect OBSERVER_FOR_POLICY: nbd: the arguments of a server are, in this order
// expect SETTINGS_FIRST: nbd: the settings of the transport come first, then nbd::settings
// expect NAMED_SETTINGS_FIRST: nbd: the first argument of a server is the settings of its transport
// expect NO_EXECUTOR: nbd: this policy cannot be made without arguments: pass it
// expect NO_EXECUTOR_IN_OPTIONS: nbd: this policy cannot be made without arguments: pass it
// expect CONTEXT_WITHOUT_POLICY: nbd: a server takes an executor as its first argument only with
// expect EXECUTOR_WITHOUT_POLICY: nbd: a server takes an executor as its first argument only with
// expect EXECUTOR_OF_THREADS: nbd: this executor has several threads; use a strand
// expect NOTHING: nbd: a server needs the settings of its transport
// expect UNKNOWN_OPTION: nbd: a wrong member in braces; `server::options{...}` says which
// expect UNKNOWN_SETTING: nbd: a wrong member in braces; `server::options{...}` says which
// expect UNKNOWN_SETTING_IN_SHORT: nbd: a wrong member in braces; `server::options{...}` says which
// expect SETTING_OF_ANOTHER_TYPE: nbd: a wrong member in braces; `server::options{...}` says which
// expect NUMBER_FOR_A_TIME: nbd: a wrong member in braces; `server::options{...}` says which
// expect PATH_FOR_TCP: nbd: a wrong member in braces; `server::options{...}` says which
// expect ADMIT_OF_NOTHING: nbd: `admit` is called with the peer of the transport, such as a const
// expect ADMIT_OF_ANOTHER_PEER: nbd: `admit` is called with the peer of the transport, such as a const
// expect AUTHORISE_OF_NOTHING: nbd: `authorise` is called with a const nbd::client&, and returns bool
// expect AUTHORISE_OF_A_PEER: nbd: `authorise` is called with a const nbd::client&, and returns bool
// expect EXPORTS_OF_ANOTHER_BACKEND: nbd: a wrong member in braces; `server::options{...}` says which
// expect EXPORTS_BY_VALUE: nbd: a wrong member in braces; `server::options{...}` says which
// expect NO_OBSERVER: nbd: this observer cannot be made without arguments: pass it
// expect TOKEN_OF_RUN: nbd: the argument of async_run is a completion token
// expect TOKEN_OF_STOP: nbd: the argument of async_stop is a completion token
// expect RUN_WITHOUT_TOKEN: nbd: the argument of async_run is a completion token
#include <nbd/server.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>

struct disk {
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
};
struct counter {
    void at_connect(const nbd::client&) {}
};
struct reporter {
    explicit reporter(int) {}
    void at_connect(const nbd::client&) {}
};
using simple = nbd::server<nbd::unix_transport, disk>;

int main()
{
#if defined REFERENCE
    nbd::server<nbd::unix_transport, disk&> server{{.path = "s"}};
#elif defined CONST
    nbd::server<nbd::unix_transport, const disk> server{{.path = "s"}};
#elif defined POINTER
    nbd::server<nbd::unix_transport, disk*> server{{.path = "s"}};
    server.exports().add("disk", nullptr);
#elif defined SHARED_POINTER
    nbd::server<nbd::unix_transport, std::shared_ptr<disk>> server{{.path = "s"}};
#elif defined LAMBDA
    const auto f = [](nbd::call& c) { c.reply(); };
    nbd::server<nbd::unix_transport, decltype(f)> server{{.path = "s"}};
    server.exports().add("disk", f);
#elif defined INCOMPLETE
    struct defined_later;
    nbd::server<nbd::unix_transport, defined_later> server{{.path = "s"}};
    server.start();
#elif defined BACKEND_FIRST
    nbd::server<disk, nbd::unix_transport> server{{.path = "s"}};
    server.exports().add("disk", disk{});
#elif defined POLICY_SECOND
    nbd::server<nbd::unix_transport, nbd::strand_pool, disk> server{{.path = "s"}};
#elif defined OBSERVER_THIRD
    nbd::server<nbd::unix_transport, disk, counter> server{{.path = "s"}};
#elif defined POLICY_REFERENCE
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool&> server{{.path = "s"}};
#elif defined NOT_A_TRANSPORT
    class carrier : public nbd::unix_transport {
    public:
        using nbd::unix_transport::unix_transport;

    private:
        using nbd::unix_transport::close;
    };
    nbd::server<carrier, disk> server{{.path = "s"}};
    server.start();
#elif defined NOT_A_POLICY
    class nowhere : public nbd::strand_pool {
        using nbd::strand_pool::join;
    };
    nbd::server<nbd::unix_transport, disk, nowhere> server{{.path = "s"}, {}, nowhere{}};
    server.start();
#elif defined TRANSPORT_ALONE_IS_WRONG
    struct nothing {};
    nbd::server<nothing, disk> server{{.path = "s"}};
    server.run();
#elif defined A_STRING_FOR_THE_TRANSPORT
    simple server{"disk.sock"};
#elif defined A_STRING_FOR_SETTINGS
    simple server{{.path = "s"}, "disk.sock"};
#elif defined POLICY_FOR_SETTINGS
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "s"},
                                                                    nbd::strand_pool{2}};
#elif defined NUMBER_FOR_POLICY
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "s"}, {}, 4};
#elif defined OBSERVER_FOR_POLICY
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool, counter> server{
        {.path = "s"}, {}, counter{}};
#elif defined SETTINGS_FIRST
    simple server{{.max_connections = 5}, {.path = "s"}};
#elif defined NAMED_SETTINGS_FIRST
    const nbd::settings limits{.max_connections = 5};
    simple server{limits};
#elif defined NO_EXECUTOR
    nbd::server<nbd::unix_transport, disk, nbd::on_executor<>> server{{.path = "s"}};
#elif defined NO_EXECUTOR_IN_OPTIONS
    nbd::server<nbd::unix_transport, disk, nbd::on_executor<boost::asio::any_io_executor>> server{
        {.listen = {.path = "s"}}};
#elif defined CONTEXT_WITHOUT_POLICY
    boost::asio::io_context io;
    simple server{io, {.path = "s"}};
#elif defined EXECUTOR_WITHOUT_POLICY
    boost::asio::io_context io;
    simple server{io.get_executor(), {.path = "s"}};
#elif defined EXECUTOR_OF_THREADS
    using executor = boost::asio::thread_pool::executor_type;
    boost::asio::thread_pool pool{2};
    nbd::server<nbd::unix_transport, disk, nbd::on_executor<executor>> server{pool.get_executor(),
                                                                              {.path = "s"}};
#elif defined NOTHING
    simple server;
#elif defined UNKNOWN_OPTION
    simple server{{.listen = {.path = "s"}, .limits = {}}};
#elif defined UNKNOWN_SETTING
    simple server{{.listen = {.path = "s"}, .settings = {.max_clients = 5}}};
#elif defined UNKNOWN_SETTING_IN_SHORT
    simple server{{.path = "s"}, {.max_clients = 5}};
#elif defined SETTING_OF_ANOTHER_TYPE
    simple server{{.listen = {.path = "s"}, .settings = {.max_connections = "5"}}};
#elif defined NUMBER_FOR_A_TIME
    simple server{{.listen = {.path = "s"}, .settings = {.idle_timeout = 5}}};
#elif defined PATH_FOR_TCP
    nbd::server<nbd::tcp_transport, disk> server{{.path = "s"}};
#elif defined ADMIT_OF_NOTHING
    simple server{{.listen = {.path = "s"}, .admit = [](const nbd::unix_peer&) {}}};
#elif defined ADMIT_OF_ANOTHER_PEER
    simple server{{.listen = {.path = "s"}, .admit = [](const nbd::tcp_peer&) { return true; }}};
#elif defined AUTHORISE_OF_NOTHING
    simple server{{.listen = {.path = "s"}, .authorise = [](const nbd::client&) {}}};
#elif defined AUTHORISE_OF_A_PEER
    simple server{
        {.listen = {.path = "s"}, .authorise = [](const nbd::unix_peer&) { return true; }}};
#elif defined EXPORTS_OF_ANOTHER_BACKEND
    const auto set = std::make_shared<nbd::export_set<nbd::mem_backend>>();
    simple server{{.listen = {.path = "s"}, .exports = set}};
#elif defined EXPORTS_BY_VALUE
    simple server{{.listen = {.path = "s"}, .exports = nbd::export_set<disk>{}}};
#elif defined NO_OBSERVER
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool, reporter> server{{.path = "s"}};
#elif defined TOKEN_OF_RUN
    simple server{{.path = "s"}};
    server.async_run([] {});
#elif defined TOKEN_OF_STOP
    simple server{{.path = "s"}};
    server.async_stop([](int*) {});
#elif defined RUN_WITHOUT_TOKEN
    simple server{{.path = "s"}};
    server.async_run();
#else
    // Right arguments, each as the compiler sees it; no more than parsed in this program.
    boost::asio::io_context io;
    using hosted = nbd::server<nbd::unix_transport, disk, nbd::on_executor<>, counter>;
    using pooled = nbd::server<nbd::tcp_transport, disk, nbd::strand_pool>;
    const nbd::settings limits{.max_connections = 5};
    const nbd::tcp_transport::settings listen{.port = 0};
    (void)sizeof(hosted{io.get_executor(), {.path = "s"}});
    (void)sizeof(hosted{io.get_executor(), {.path = "s"}, {.max_connections = 5}, counter{}});
    (void)sizeof(hosted{io, {.path = "s"}});
    (void)sizeof(hosted{io, {.path = "s"}, limits, counter{}});
    (void)sizeof(hosted{{.path = "s"}, limits, nbd::on_executor<>{io.get_executor()}, {}});
    (void)sizeof(
        hosted{{.listen = {.path = "s"}, .policy = nbd::on_executor<>{io.get_executor()}}});
    (void)sizeof(pooled{{}, {}});
    (void)sizeof(pooled{listen});
    (void)sizeof(pooled{listen, limits});
    (void)sizeof(pooled{listen, {}, nbd::strand_pool{2}});
    (void)sizeof(pooled{{.listen = listen, .settings = limits}});
    (void)sizeof(pooled{pooled::options{}});
    auto owned = std::make_unique<int>(1);
    (void)sizeof(pooled{
        {.admit = [n = std::move(owned)](const nbd::tcp_peer&) mutable { return --*n == 0; }}});
#endif
}
