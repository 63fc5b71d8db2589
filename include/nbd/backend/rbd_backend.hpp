// SPDX-License-Identifier: MIT
#pragma once

#if !__has_include(<rbd/librbd.h>)
#error "nbd::rbd_backend needs librbd: install librbd-dev, and link with -lrbd -lrados"
#else

#include <nbd/backend/basic_rbd_backend.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <rados/librados.h>
#include <rbd/librbd.h>

namespace nbd {

/// The calls of librados and librbd that basic_rbd_backend makes, for one image. Calls whose name
/// is not that of a request wait for the cluster.
class librbd {
public:
    /// *Errors*: std::system_error.
    explicit librbd(const rbd_settings& s)
    {
        const auto need = [&s](int result, const std::string& what) {
            if (result < 0)
                throw std::system_error{-result, std::system_category(),
                                        "nbd: " + s.name() + ": " + what};
        };
        const auto text = [](const std::string& t) { return t.empty() ? nullptr : t.c_str(); };
        const auto set = [&](const std::string& option, const std::string& value) {
            need(rados_conf_set(cluster_.get(), option.c_str(), value.c_str()),
                 "option " + option + " = " + value);
        };
        need(rados_create(cluster_.to_open(), text(s.ceph_id)), "user " + s.ceph_id);
        need(rados_conf_read_file(cluster_.get(), text(s.ceph_conf)),
             "configuration " + (s.ceph_conf.empty() ? "ceph.conf" : s.ceph_conf));
        need(rados_conf_parse_env(cluster_.get(), nullptr), "CEPH_ARGS");
        set("client_mount_timeout", std::to_string(s.connect_timeout.count()));
        for (const auto& [option, value] : s.options)
            set(option, value);
        need(rados_connect(cluster_.get()), "cannot connect to the cluster");
        need(rados_ioctx_create(cluster_.get(), s.pool.c_str(), pool_.to_open()), "pool " + s.pool);
        rados_ioctx_set_namespace(pool_.get(), s.name_space.c_str());

        // rbd_open watches the image, which is needed to notice a new size. A user of Ceph who may
        // only read cannot watch it.
        read_only_ = s.read_only || !s.snapshot.empty();
        int opened = rbd_open(pool_.get(), s.image.c_str(), image_.to_open(), text(s.snapshot));
        if (read_only_ && (opened == -EPERM || opened == -EACCES || opened == -EROFS))
            opened = rbd_open_read_only(pool_.get(), s.image.c_str(), image_.to_open(),
                                        text(s.snapshot));
        need(opened, s.snapshot.empty() ? "image" : "image or snapshot");
        name_ = s.name();
        snapshot_ = s.snapshot;
    }

    [[nodiscard]] rbd_image_info info()
    {
        rbd_image_info found{.read_only = read_only_};
        rbd_image_info_t stat{};
        need(rbd_stat(image_.get(), &stat, sizeof stat), "its size");
        found.size = stat.size;
        found.object_size = stat.obj_size;
        need(rbd_get_stripe_unit(image_.get(), &found.stripe_unit), "its stripe unit");
        int most = 64;
        std::vector<rbd_snap_info_t> list;
        int count = -ERANGE;
        while (count == -ERANGE) {
            list.resize(static_cast<std::size_t>(most));
            count = rbd_snap_list(image_.get(), list.data(), &most);
        }
        need(count, "its snapshots");
        // Sorted by age.
        for (const auto& snapshot : std::span{list}.first(static_cast<std::size_t>(count))) {
            if (snapshot.name == snapshot_)
                break;
            found.snapshots.emplace_back(snapshot.name);
        }
        rbd_snap_list_end(list.data());
        return found;
    }
    /// Takes the exclusive lock. librbd then refuses it to other clients that ask for it.
    void lock()
    {
        std::uint64_t features = 0;
        need(rbd_get_features(image_.get(), &features), "its features");
        need((features & RBD_FEATURE_EXCLUSIVE_LOCK) != 0 ? 0 : -EOPNOTSUPP,
             "the image does not have the feature exclusive-lock");
        const int locked = rbd_lock_acquire(image_.get(), RBD_LOCK_MODE_EXCLUSIVE);
        need(locked == -EROFS ? -EBUSY : locked, "its exclusive lock");
    }
    [[nodiscard]] int size(std::uint64_t& now) { return rbd_get_size(image_.get(), &now); }

    /// Calls `Changed(context)` on a thread of librbd when the image has changed, until unwatch.
    template <auto Changed>
    void watch(void* context)
    {
        watches_ = rbd_update_watch(image_.get(), &watch_, Changed, context) == 0;
    }
    void unwatch()
    {
        if (std::exchange(watches_, false))
            rbd_update_unwatch(image_.get(), watch_);
    }

    // --- Requests: each calls `Done(call, result)` once, on a thread of librbd, or returns -errno.
    template <auto Done>
    int read(std::uint64_t offset, std::span<std::byte> to, void* call)
    {
        return begin<Done>(call, [&](rbd_completion_t done) {
            return rbd_aio_read(image_.get(), offset, to.size(), reinterpret_cast<char*>(to.data()),
                                done);
        });
    }
    template <auto Done>
    int write(std::uint64_t offset, std::span<const std::byte> from, void* call)
    {
        return begin<Done>(call, [&](rbd_completion_t done) {
            return rbd_aio_write(image_.get(), offset, from.size(),
                                 reinterpret_cast<const char*>(from.data()), done);
        });
    }
    template <auto Done>
    int flush(void* call)
    {
        return begin<Done>(
            call, [&](rbd_completion_t done) { return rbd_aio_flush(image_.get(), done); });
    }
    template <auto Done>
    int discard(std::uint64_t offset, std::uint64_t length, void* call)
    {
        return begin<Done>(call, [&](rbd_completion_t done) {
            return rbd_aio_discard(image_.get(), offset, length, done);
        });
    }
    template <auto Done>
    int write_zeroes(std::uint64_t offset, std::uint64_t length, bool no_hole, void* call)
    {
        return begin<Done>(call, [&](rbd_completion_t done) {
            return rbd_aio_write_zeroes(image_.get(), offset, length, done,
                                        no_hole ? RBD_WRITE_ZEROES_FLAG_THICK_PROVISION : 0, 0);
        });
    }

    /// Whether the object map has the areas, so that objects need not be asked for one by one.
    [[nodiscard]] bool has_fast_diff()
    {
        std::uint64_t features = 0;
        std::uint64_t flags = 0;
        return rbd_get_features(image_.get(), &features) == 0
            && (features & RBD_FEATURE_FAST_DIFF) != 0 && rbd_get_flags(image_.get(), &flags) == 0
            && (flags & RBD_FLAG_FAST_DIFF_INVALID) == 0;
    }
    /// Appends what was written since a snapshot or, if it is empty, ever. *Returns* 0 or -errno.
    int find_areas(const std::string& since, std::uint64_t offset, std::uint64_t length,
                   bool whole_objects, std::vector<rbd_area>& areas)
    {
        return rbd_diff_iterate2(
            image_.get(), since.empty() ? nullptr : since.c_str(), offset, length, 1,
            whole_objects ? 1 : 0,
            [](std::uint64_t at, std::size_t bytes, int exists, void* to) noexcept {
                try {
                    static_cast<std::vector<rbd_area>*>(to)->push_back({at, bytes, exists != 0});
                    return 0;
                } catch (...) {
                    return -ENOMEM;
                }
            },
            &areas);
    }

private:
    /// A handle that is closed if it was opened.
    template <class Handle, auto Close>
    class handle {
    public:
        handle() = default;
        handle(const handle&) = delete;
        handle& operator=(const handle&) = delete;
        ~handle()
        {
            if (handle_ != nullptr)
                Close(handle_);
        }
        [[nodiscard]] Handle get() const noexcept { return handle_; }
        [[nodiscard]] Handle* to_open() noexcept { return &handle_; }

    private:
        Handle handle_ = nullptr;
    };

    void need(int result, const char* what) const
    {
        if (result < 0)
            throw std::system_error{-result, std::system_category(), "nbd: " + name_ + ": " + what};
    }

    /// noexcept: librbd does not handle a failed allocation of its own.
    template <auto Done, class Start>
    static int begin(void* call, Start start) noexcept
    {
        rbd_completion_t done = nullptr;
        if (const int failed = rbd_aio_create_completion(
                call,
                [](rbd_completion_t ended, void* of) {
                    const auto result = rbd_aio_get_return_value(ended);
                    rbd_aio_release(ended);
                    Done(of, result);
                },
                &done);
            failed < 0)
            return failed;
        const int failed = start(done);
        if (failed < 0)
            rbd_aio_release(done);
        return failed < 0 ? failed : 0;
    }

    handle<rados_t, rados_shutdown> cluster_;
    handle<rados_ioctx_t, rados_ioctx_destroy> pool_;
    handle<rbd_image_t, rbd_close> image_;
    std::string name_;
    std::string snapshot_;
    bool read_only_ = false;
    std::uint64_t watch_ = 0;
    bool watches_ = false;
};

/// A backend for an image of Ceph, with librbd 16.2.8 or newer (target nbd::rbd).
///
///     exports.emplace("disk", nbd::export_settings{},
///                     nbd::rbd_settings{.pool = "rbd", .image = "disk"});
using rbd_backend = basic_rbd_backend<librbd>;

}  // namespace nbd

#endif
