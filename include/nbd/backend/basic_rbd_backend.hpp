// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/rbd_image_info.hpp>
#include <nbd/backend/rbd_settings.hpp>
#include <nbd/concepts/backend.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/vocabulary/intrusive_queue.hpp>
#include <nbd/vocabulary/outcome_of.hpp>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace nbd {

/// A backend for an image of Ceph (RBD). `Ceph` makes the calls; rbd_backend.hpp has the real one.
///
/// Requests are asynchronous calls of librbd: any number are in flight, and none holds a thread.
/// When another program resizes the image, clients that connect afterwards get the new size. A
/// snapshot, and an image with `read_only`, is a read-only export.
///
/// Each snapshot that existed when the image was opened has a meta context
/// `nbd-cpp:rbd-snap-diff:SNAP`, which reports what has changed since then. Bit 0 of a status means
/// changed. Bit 1 means discarded since then; the range reads as zero.
///
/// *Errors*: those of Ceph. When the exclusive lock is lost, or the cluster has put this client on
/// its blocklist, every call fails with ESHUTDOWN from then on and sends nothing to the cluster,
/// even if the lock becomes free again. A range after the end of an image that has shrunk is EIO.
/// *Thread safety*: parallel.
/// *Cancellation*: none. A call completes when the cluster has answered. While the cluster cannot
/// answer, calls wait, and the end of a server waits for them; see rados_osd_op_timeout of Ceph.
/// *Lifetime*: all calls must have completed before the backend is destroyed. The destructor waits
/// for the cluster.
template <class Ceph>
class basic_rbd_backend final {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool multi_conn = true;
    static constexpr bool fast_zero = true;
    static constexpr bool fills_reads = true;

    /// Connects to the cluster, opens the image and takes its exclusive lock.
    /// *Errors*: std::system_error; its text names what failed.
    explicit basic_rbd_backend(const rbd_settings& s) : image_{std::make_unique<image>(s)} {}

    [[nodiscard]] std::uint64_t size() const noexcept { return image_->size; }
    /// Returns at once: a watch on the image keeps the size up to date.
    std::uint64_t refresh_size() noexcept { return image_->size; }
    [[nodiscard]] nbd::block_sizes block_sizes() const noexcept
    {
        nbd::block_sizes sizes;
        const auto unit = std::uint64_t{std::bit_floor(image_->info.stripe_unit)};
        sizes.preferred = static_cast<std::uint32_t>(
            std::clamp<std::uint64_t>(unit, sizes.preferred, sizes.maximum));
        return sizes;
    }
    [[nodiscard]] nbd::abilities abilities() const noexcept
    {
        return {.read_only = image_->info.read_only};
    }
    [[nodiscard]] std::span<const meta_context> meta_contexts() const noexcept
    {
        return image_->contexts;
    }

    void async_read(std::uint64_t offset, std::span<std::byte> to, completion done)
    {
        begin(std::move(done), {.bytes = to.size()}, [&](Ceph& ceph, void* call) {
            return ceph.template read<&image::finished>(offset, to, call);
        });
    }
    void async_write(std::uint64_t offset, std::span<const std::byte> from, completion done)
    {
        begin(std::move(done), {.changes = true}, [&](Ceph& ceph, void* call) {
            return ceph.template write<&image::finished>(offset, from, call);
        });
    }
    void async_flush(completion done)
    {
        begin(std::move(done), {},
              [&](Ceph& ceph, void* call) { return ceph.template flush<&image::finished>(call); });
    }
    /// Ceph ignores the parts of a trim that are smaller than its granularity
    /// (rbd_discard_granularity_bytes, 64 KiB).
    void async_trim(std::uint64_t offset, std::uint64_t length, completion done)
    {
        begin(std::move(done), {.changes = true}, [&](Ceph& ceph, void* call) {
            return ceph.template discard<&image::finished>(offset, length, call);
        });
    }
    /// With `no_hole`, Ceph writes the zeroes: that is not fast.
    void async_write_zeroes(std::uint64_t offset, std::uint64_t length, zero_flags flags,
                            completion done)
    {
        if (flags.fast && flags.no_hole)
            return done(std::make_error_code(std::errc::not_supported));
        begin(std::move(done), {.changes = true}, [&](Ceph& ceph, void* call) {
            return ceph.template write_zeroes<&image::finished>(offset, length, flags.no_hole,
                                                                call);
        });
    }
    /// In whole objects if the image has the feature fast-diff.
    void async_extents(std::uint64_t offset, std::uint64_t length, extent_list& to, completion done)
    {
        image_->ask(std::move(done), {}, offset, length, to);
    }
    void async_context_extents(std::size_t index, std::uint64_t offset, std::uint64_t length,
                               extent_list& to, completion done)
    {
        image_->ask(std::move(done), image_->info.snapshots[index], offset, length, to);
    }

private:
    /// What the end of a call depends on.
    struct kind {
        std::size_t bytes = 0;  ///< that a read returns
        bool changes = false;   ///< it needs the exclusive lock
    };

    /// The image. Calls in flight hold its address.
    struct image {
        /// A call in flight. The objects are reused, so that a request allocates none.
        struct call {
            image* owner = nullptr;
            void* done = nullptr;  ///< the released completion
            kind is{};
            call* behind = nullptr;
        };
        /// A query of extents. librbd has only a blocking call for it, so a thread makes it.
        struct query {
            completion done;
            std::string_view since;  ///< a snapshot; empty: all that is there
            std::uint64_t offset;
            std::uint64_t length;
            extent_list* to;
        };

        explicit image(const rbd_settings& s)
            : ceph{s}, info{ceph.info()}, exclusive{s.exclusive && !info.read_only}, size{info.size}
        {
            names.reserve(info.snapshots.size());
            for (const auto& snapshot : info.snapshots)
                contexts.push_back({names.emplace_back("nbd-cpp:rbd-snap-diff:" + snapshot)});
            if (exclusive)
                ceph.lock();
            ceph.template watch<&image::changed>(this);
            changed(this);  // a change before the watch
            try {
                answers = std::thread{[this] { answer(); }};
            } catch (...) {
                ceph.unwatch();
                throw;
            }
        }
        image(const image&) = delete;
        image& operator=(const image&) = delete;
        ~image()
        {
            {
                const std::lock_guard lock{guard};
                stops = true;
            }
            asked.notify_one();
            answers.join();
            ceph.unwatch();
        }

        [[nodiscard]] call& take(completion& done, kind is)
        {
            const std::lock_guard lock{guard};
            call& c = unused.empty() ? calls.emplace_back() : unused.pop();
            c = {this, done.release(), is};
            return c;
        }
        [[nodiscard]] completion give_back(call& c) noexcept
        {
            auto done = completion::adopt(c.done);
            const std::lock_guard lock{guard};
            unused.push(c);
            return done;
        }

        /// A call has ended, on a thread of librbd.
        static void finished(void* ended, std::int64_t result) noexcept
        {
            call& c = *static_cast<call*>(ended);
            auto outcome = c.owner->outcome(c.is, result);
            // The backend may be destroyed as soon as its last call is completed.
            c.owner->give_back(c)(std::move(outcome));
        }

        [[nodiscard]] failure outcome(const kind& is, std::int64_t result) noexcept
        {
            if (result >= 0)
                return is.bytes == 0 || static_cast<std::uint64_t>(result) == is.bytes
                    ? failure{}
                    : failure{std::errc::io_error};
            const auto error = static_cast<int>(-result);
            // EROFS: librbd does not have the exclusive lock. ESHUTDOWN: this client is on the
            // cluster's blocklist.
            if (error == ESHUTDOWN || (error == EROFS && is.changes && exclusive))
                lost = true;
            if (lost)
                return shut_down();
            // The server has checked the range: the image has shrunk.
            return error == EINVAL ? failure{std::errc::io_error}
                                   : failure{std::error_code{error, std::system_category()}};
        }
        [[nodiscard]] static failure shut_down() noexcept
        {
            return std::error_code{ESHUTDOWN, std::system_category()};
        }

        /// The image has changed, on a thread of librbd.
        static void changed(void* watcher) noexcept
        {
            auto& self = *static_cast<image*>(watcher);
            if (std::uint64_t now = 0; self.ceph.size(now) == 0)
                self.size = now;
        }

        void ask(completion done, std::string_view since, std::uint64_t offset,
                 std::uint64_t length, extent_list& to)
        {
            {
                const std::lock_guard lock{guard};
                queries.push_back({std::move(done), since, offset, length, &to});
            }
            asked.notify_one();
        }
        void answer() noexcept
        {
            for (std::unique_lock lock{guard};;) {
                asked.wait(lock, [this] { return stops || !queries.empty(); });
                if (queries.empty())
                    return;
                query next = std::move(queries.front());
                queries.pop_front();
                lock.unlock();
                next.done(outcome_of([&] { return answered(next); }));
                lock.lock();
            }
        }
        [[nodiscard]] failure answered(const query& q)
        {
            if (lost)
                return shut_down();
            const bool whole_objects = q.since.empty() && ceph.has_fast_diff();
            const auto length = std::min(q.length, info.object_size * (whole_objects ? 4096 : 64));
            std::vector<rbd_area> areas;
            if (const int result =
                    ceph.find_areas(std::string{q.since}, q.offset, length, whole_objects, areas);
                result < 0)
                return outcome({}, result);
            report_areas(areas, q.offset, q.offset + length,
                         q.since.empty() ? rbd_allocation : rbd_snap_diff, *q.to);
            return {};
        }

        Ceph ceph;
        const rbd_image_info info;
        const bool exclusive;
        std::atomic<std::uint64_t> size;
        std::atomic<bool> lost = false;
        std::vector<std::string> names;
        std::vector<meta_context> contexts;

        std::mutex guard;
        std::deque<call> calls;
        intrusive_queue<call> unused;
        std::deque<query> queries;
        std::condition_variable asked;
        bool stops = false;
        std::thread answers;
    };

    /// `start(ceph, call)` returns 0, or -errno if it has begun nothing.
    template <class Start>
    void begin(completion done, kind is, Start start)
    {
        if (image_->lost)
            return done(image::shut_down());
        auto& call = image_->take(done, is);
        if (const int result = start(image_->ceph, &call); result < 0)
            image::finished(&call, result);
    }

    std::unique_ptr<image> image_;
};

}  // namespace nbd
