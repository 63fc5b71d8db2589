// SPDX-License-Identifier: MIT
// expect: nbd: this executor has several threads; use a strand
#include <nbd/server.hpp>

#include <boost/asio/thread_pool.hpp>

int main()
{
    boost::asio::thread_pool pool{2};
#ifdef NBD_FIXED
    using policy = nbd::on_executor<boost::asio::strand<boost::asio::thread_pool::executor_type>>;
    const policy p{boost::asio::make_strand(pool)};
#else
    using policy = nbd::on_executor<boost::asio::thread_pool::executor_type>;
    const policy p{pool.get_executor()};
#endif
    return static_cast<int>(p.runs_here());
}
