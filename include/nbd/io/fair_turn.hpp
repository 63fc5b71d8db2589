// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/execution/context.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/query.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>

namespace nbd::io {

/// The clients that are served on one execution context. It outlives the context, because a
/// coroutine may.
/// *Thread safety*: all members from any thread.
class clients_of_context {
public:
    /// *Errors*: std::bad_alloc for the first client of a context.
    template <class Executor>
    [[nodiscard]] static std::shared_ptr<clients_of_context> of(const Executor& executor)
    {
        return boost::asio::use_service<service>(
                   boost::asio::query(executor, boost::asio::execution::context))
            .clients;
    }

    void add() noexcept { count_.fetch_add(1, std::memory_order_relaxed); }
    void remove() noexcept { count_.fetch_sub(1, std::memory_order_relaxed); }
    [[nodiscard]] unsigned count() const noexcept { return count_.load(std::memory_order_relaxed); }

    /// One of them lets others run. *Returns* how often that has happened.
    unsigned lets_others_run() noexcept
    {
        return 1 + let_others_run_.fetch_add(1, std::memory_order_relaxed);
    }
    [[nodiscard]] unsigned times() const noexcept
    {
        return let_others_run_.load(std::memory_order_relaxed);
    }

private:
    struct service : boost::asio::execution_context::service {
        static inline boost::asio::execution_context::id id{};
        using key_type = service;
        explicit service(boost::asio::execution_context& context)
            : boost::asio::execution_context::service{context}
        {
        }
        void shutdown() noexcept override {}
        std::shared_ptr<clients_of_context> clients = std::make_shared<clients_of_context>();
    };

    std::atomic<unsigned> count_{0};
    std::atomic<unsigned> let_others_run_{0};
};

/// How much is done for one client before others of its execution context run. Short turns cost the
/// client a part of its rate, so a turn is short while another client uses its turns, longer beside
/// clients that are idle, and practically unlimited where there is no other client.
/// *Thread safety*: distinct objects: safe. Shared objects: unsafe.
class fair_turn {
public:
    static constexpr std::size_t shortest = std::size_t{128} << 10;
    static constexpr std::size_t longest = std::size_t{1} << 20;  ///< beside idle clients
    static constexpr std::size_t of_one = std::size_t{32} << 20;  ///< without other clients

    fair_turn() = default;
    fair_turn(const fair_turn&) = delete;
    fair_turn& operator=(const fair_turn&) = delete;
    ~fair_turn()
    {
        if (clients_ != nullptr)
            clients_->remove();
    }

    /// In bytes of data.
    [[nodiscard]] std::size_t length() const noexcept
    {
        return clients_ != nullptr && clients_->count() == 1 ? of_one : length_;
    }

    /// The client's next bytes are awaited. *Errors*: std::bad_alloc at the first call.
    template <class Executor>
    void waits(const Executor& executor)
    {
        if (clients_ == nullptr) {
            clients_ = clients_of_context::of(executor);
            clients_->add();
        }
        end();
    }
    /// Others may run until `begin`.
    void end() noexcept
    {
        if (clients_ != nullptr)
            ended_ = clients_->lets_others_run();
    }
    void begin() noexcept
    {
        if (clients_ != nullptr)
            length_ = clients_->times() != ended_ ? shortest : std::min(length_ * 2, longest);
    }

private:
    std::shared_ptr<clients_of_context> clients_;
    unsigned ended_ = 0;
    std::size_t length_ = longest;  ///< beside others
};

}  // namespace nbd::io
