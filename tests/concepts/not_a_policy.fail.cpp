// SPDX-License-Identifier: MIT
// expect: nbd: the third argument of server is a threading policy
#include <nbd/server.hpp>

struct nowhere {};

int main()
{
#ifdef NBD_FIXED
    using policy = nbd::strand_pool;
#else
    using policy = nowhere;
#endif
    nbd::server<nbd::unix_transport, nbd::mem_backend, policy> server{{.path = "disk.sock"}};
    server.run();
}
