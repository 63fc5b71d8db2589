// SPDX-License-Identifier: MIT
// expect: nbd: a transport needs `void close() noexcept`
#include <nbd/server.hpp>

class carrier : public nbd::unix_transport {
public:
    using nbd::unix_transport::unix_transport;

private:
    using nbd::unix_transport::close;
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
