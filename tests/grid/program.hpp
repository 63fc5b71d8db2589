// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include <thread>

namespace grid {

/// An io_context of the program, and the thread that runs it.
struct program {
    boost::asio::io_context context;
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard{
        context.get_executor()};
    std::thread thread{[this] { context.run(); }};
    ~program()
    {
        guard.reset();
        thread.join();
    }
};

}  // namespace grid
