// SPDX-License-Identifier: MIT
// expect: nbd: a threading policy needs `void join()`
#include <nbd/server.hpp>

class nowhere : public nbd::strand_pool {
    using nbd::strand_pool::join;
};

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
