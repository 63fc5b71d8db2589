// SPDX-License-Identifier: MIT
// expect: nbd: this observer's at_connect has the wrong shape
#include <nbd/server.hpp>

struct listener {
#ifdef NBD_FIXED
    void at_connect(const nbd::client&) {}
#else
    void at_connect() {}
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads, listener> server{
        {.path = "disk.sock"}};
    server.exports().add("disk", nbd::mem_backend{512});
    server.run();
}
