// SPDX-License-Identifier: MIT
// expect: nbd: the first argument of server is a transport; see nbd/concepts/transport.hpp
#include <nbd/server.hpp>

struct carrier {
    struct settings {
        const char* path;
    };
    using protocol_type = boost::asio::local::stream_protocol;
};

int main()
{
#ifdef NBD_FIXED
    using transport = nbd::unix_transport;
#else
    using transport = carrier;
#endif
    nbd::server<transport, nbd::mem_backend, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.run();
}
