// SPDX-License-Identifier: MIT
// The servers of the sweep: policies x disks.
#pragma once

#include "faults/disks.hpp"
#include "faults/sweep.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/server.hpp>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include <chrono>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <utility>

namespace faults {

struct counting_observer {
    told* to = nullptr;
    void at_connect(const nbd::client&) { ++to->connected; }
    void at_disconnect(const nbd::client&, std::error_code) { ++to->disconnected; }
};

/// A context of the program, and the thread that runs it.
class program {
public:
    [[nodiscard]] boost::asio::io_context& context() noexcept { return context_; }
    void start()
    {
        thread_ = std::thread{[this] {
            for (;;) {
                try {
                    context_.run();
                    return;
                } catch (const std::exception& e) {
                    thrown_ = true;
                }
            }
        }};
    }
    void end()
    {
        guard_.reset();
        if (thread_.joinable())
            thread_.join();
    }
    ~program() { end(); }
    [[nodiscard]] bool has_thrown() const noexcept { return thrown_; }

private:
    boost::asio::io_context context_;
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard_{
        context_.get_executor()};
    std::thread thread_;
    std::atomic<bool> thrown_{false};
};

[[nodiscard]] inline nbd::settings limits()
{
    nbd::settings s;
    s.stop_grace = std::chrono::milliseconds{500};
    return s;
}

template <class Disk, class Policy>
class running_server : public running {
    using executor = typename Policy::executor_type;
    using server_type = nbd::server<nbd::unix_transport, typename Disk::template backend<executor>,
                                    Policy, counting_observer>;
    static constexpr bool hosted = std::is_same_v<Policy, nbd::on_executor<>>;

public:
    running_server(told& to, const std::function<void()>& begin)
    {
        auto listen_at = grid::somewhere<nbd::unix_transport>();
        auto exports = std::make_shared<typename server_type::export_set_type>();
        Disk::add(*exports);
        if constexpr (hosted)
            program_.start();
        begin();
        server_ = std::make_unique<server_type>(
            typename server_type::options{.listen = std::move(listen_at),
                                          .exports = std::move(exports),
                                          .settings = limits(),
                                          .policy = policy(),
                                          .observer = counting_observer{&to}});
        server_->start();
    }
    ~running_server() override { server_.reset(); }

    [[nodiscard]] endpoint where() const override { return server_->local_endpoint(); }
    void stop() override { server_->stop(); }
    [[nodiscard]] std::string complaint() const override
    {
        if constexpr (hosted && !requires { Disk::may_throw; }) {
            if (program_.has_thrown())
                return "an exception came out of the program's run()";
        }
        return {};
    }

private:
    [[nodiscard]] Policy policy()
    {
        if constexpr (hosted)
            return Policy{program_.context().get_executor()};
        else if constexpr (std::is_same_v<Policy, nbd::strand_pool>)
            return Policy{1};
        else
            return Policy{};
    }

    struct nothing {};
    std::conditional_t<hosted, program, nothing> program_;
    std::unique_ptr<server_type> server_;
};

template <class Disk, class Policy>
[[nodiscard]] composition composed(const std::string& policy)
{
    return {.name = policy + ", " + Disk::name,
            .make = [](told& to, const std::function<void()>& begin) -> std::unique_ptr<running> {
                return std::make_unique<running_server<Disk, Policy>>(to, begin);
            }};
}

}  // namespace faults
