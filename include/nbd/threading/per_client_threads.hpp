// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/threading/awaiting.hpp>
#include <nbd/threading/launch.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>
#include <utility>

namespace nbd {

/// One thread for each client, with blocking system calls: the lowest latency, and the highest
/// throughput for a few busy clients. A call of a `parallel` backend that blocks delays only its
/// own client. A thread whose client has left may serve a later client.
///
/// What an awaited backend leaves on its client's executor, such as a timer or a detached
/// coroutine, runs on that thread until it ends. When the server stops, it has one more second.
/// Then it is destroyed, or, if it waits on another executor by nbd::on, when its task has ended.
/// It must not be waiting for another thread in another way.
class per_client_threads : public threading::awaiting<boost::asio::io_context::executor_type> {
public:
    using executor_type = boost::asio::io_context::executor_type;
    static constexpr bool blocking = true;

    void start() {}

    /// No thread runs this context: blocking calls do not need it.
    [[nodiscard]] executor_type next_executor() { return state_->executor(); }

    template <class Session>
    void launch(const executor_type&, Session session) noexcept
    {
        try {
            state_->launch(job_pointer{new job_of<Session>{std::move(session)}});
        } catch (...) {  // no memory or no thread: the destructor of `session` reports the end
        }
    }

    [[nodiscard]] bool runs_here() const { return state_->runs_here(); }

    void join() { state_->join(); }

private:
    /// A session of any type, without a virtual table.
    struct job {
        /// Runs the session, unless `joining` is null, and destroys it.
        void (*end)(job* self, const std::atomic<bool>* joining) noexcept;
    };
    template <class Session>
    struct job_of : job {
        explicit job_of(Session s) : job{&end_of}, session{std::move(s)} {}
        static void end_of(job* self, const std::atomic<bool>* joining) noexcept
        {
            std::unique_ptr<job_of> mine{static_cast<job_of*>(self)};
            if (joining == nullptr)
                return;
            try {
                auto task = mine->session();
                task.get();
                if constexpr (requires {
                                  task.run_leftovers(*joining, threading::time_for_leftovers);
                              }) {
                    mine.reset();  // the client has left
                    task.run_leftovers(*joining, threading::time_for_leftovers);
                }
            } catch (...) {  // ends this session only
            }
        }
        Session session;
    };
    struct discard {
        void operator()(job* unserved) const noexcept { unserved->end(unserved, nullptr); }
    };
    using job_pointer = std::unique_ptr<job, discard>;

    /// Threads that serve, and threads that wait for a client. Creating a thread takes longer than
    /// a short session, so a thread whose client has left waits for the next one for a second.
    /// There are never more of these threads than there were clients at a time during the last
    /// second; others run what backends have left.
    class state {
    public:
        [[nodiscard]] executor_type executor() noexcept { return sockets_.get_executor(); }

        void launch(job_pointer next)
        {
            const std::lock_guard lock{mutex_};
            if (!waiting_.empty()) {  // the one that waits shortest: its memory is in the caches
                const auto self = std::prev(waiting_.end());
                self->next = std::move(next);
                serving_.splice(serving_.end(), waiting_, self);
                self->wake.notify_one();
                return;
            }
            const auto self = serving_.emplace(serving_.end());
            try {
                self->thread = std::thread{
                    [this, self, first = next.get()] { work(self, job_pointer{first}); }};
            } catch (...) {
                serving_.erase(self);
                throw;  // the caller destroys `next`, without the lock
            }
            std::ignore = next.release();
        }

        [[nodiscard]] bool runs_here()
        {
            const std::lock_guard lock{mutex_};
            return std::any_of(serving_.begin(), serving_.end(), [](const auto& w) {
                return w.thread.get_id() == std::this_thread::get_id();
            });
        }

        void join()
        {
            std::unique_lock lock{mutex_};
            joining_ = true;
            for (auto& w : waiting_)
                w.wake.notify_one();
            all_ended_.wait(lock, [this] { return serving_.empty() && waiting_.empty(); });
            joining_ = false;
            if (ended_.joinable())
                ended_.join();
        }

    private:
        struct worker {
            std::thread thread;
            job_pointer next;
            std::condition_variable wake;
        };
        using place = typename std::list<worker>::iterator;

        static constexpr std::chrono::seconds longest_wait{1};

        void work(place self, job_pointer mine)
        {
            threading::block_sigpipe();
            while (mine != nullptr) {
                auto* const served = mine.release();
                served->end(served, &joining_);
                mine = next_of(self);
            }
            retire(self);
        }
        /// Waits for the next client. *Returns* null if the thread has to end.
        [[nodiscard]] job_pointer next_of(place self)
        {
            std::unique_lock lock{mutex_};
            if (joining_)
                return nullptr;
            waiting_.splice(waiting_.end(), serving_, self);
            self->wake.wait_for(lock, longest_wait,
                                [&] { return self->next != nullptr || joining_; });
            if (self->next == nullptr)
                serving_.splice(serving_.end(), waiting_, self);
            return std::move(self->next);
        }
        /// A thread cannot join itself, so it joins the thread that ended before it and leaves its
        /// own handle to the next one. At most one ended thread is kept.
        void retire(place self)
        {
            std::thread before;
            {
                const std::lock_guard lock{mutex_};
                before = std::exchange(ended_, std::move(self->thread));
                serving_.erase(self);
                if (serving_.empty() && waiting_.empty())
                    all_ended_.notify_all();
            }
            if (before.joinable())
                before.join();
        }

        boost::asio::io_context sockets_;
        // Creates the context's descriptors now, not when the first client connects.
        boost::asio::posix::basic_stream_descriptor<executor_type> first_user_{sockets_};
        std::mutex mutex_;
        std::condition_variable all_ended_;
        std::list<worker> serving_;
        std::list<worker> waiting_;
        std::thread ended_;
        std::atomic<bool> joining_{false};
    };

    std::unique_ptr<state> state_ = std::make_unique<state>();
};

}  // namespace nbd
