// SPDX-License-Identifier: MIT
// A Ceph for basic_rbd_backend that runs in this process: a test decides when and how its calls
// end.
#pragma once

#include <nbd/backend/basic_rbd_backend.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

/// What the calls of all images find.
struct fake_cluster {
    struct call {
        std::string what;
        std::function<void(std::int64_t)> end;  ///< ends the call with its result
    };

    nbd::rbd_image_info info{.size = 64 << 20, .object_size = 4 << 20, .stripe_unit = 4 << 20};
    std::uint64_t size = 64 << 20;
    bool fast_diff = true;
    bool exclusive_lock = true;
    int refuses_to_begin = 0;  ///< an errno
    int refuses_to_find = 0;   ///< an errno
    std::vector<nbd::rbd_area> areas;

    std::vector<call> begun;        ///< and not ended
    std::vector<std::string> log;   ///< what was called
    std::function<void()> changed;  ///< tells the watcher
    int opened = 0;
};
inline fake_cluster cluster;

class fake_ceph {
public:
    explicit fake_ceph(const nbd::rbd_settings& s) : read_only_{s.read_only} { ++cluster.opened; }
    fake_ceph(const fake_ceph&) = delete;
    fake_ceph& operator=(const fake_ceph&) = delete;
    ~fake_ceph()
    {
        --cluster.opened;
        cluster.log.emplace_back("close");
    }

    [[nodiscard]] nbd::rbd_image_info info() const
    {
        auto found = cluster.info;
        found.read_only = read_only_;
        return found;
    }
    void lock()
    {
        cluster.log.emplace_back("lock");
        if (!cluster.exclusive_lock)
            throw std::system_error{EBUSY, std::system_category(), "nbd: its exclusive lock"};
    }
    int size(std::uint64_t& now)
    {
        now = cluster.size;
        return 0;
    }
    template <auto Changed>
    void watch(void* context)
    {
        cluster.changed = [context] { Changed(context); };
    }
    void unwatch()
    {
        cluster.changed = nullptr;
        cluster.log.emplace_back("unwatch");
    }

    template <auto Done>
    int read(std::uint64_t offset, std::span<std::byte> to, void* call)
    {
        return begin<Done>("read " + std::to_string(offset) + ' ' + std::to_string(to.size()), call,
                           [to](std::int64_t result) {
                               if (result > 0)
                                   std::memset(to.data(), 7, static_cast<std::size_t>(result));
                           });
    }
    template <auto Done>
    int write(std::uint64_t offset, std::span<const std::byte> from, void* call)
    {
        return begin<Done>("write " + std::to_string(offset) + ' ' + std::to_string(from.size()),
                           call);
    }
    template <auto Done>
    int flush(void* call)
    {
        return begin<Done>("flush", call);
    }
    template <auto Done>
    int discard(std::uint64_t offset, std::uint64_t length, void* call)
    {
        return begin<Done>("discard " + std::to_string(offset) + ' ' + std::to_string(length),
                           call);
    }
    template <auto Done>
    int write_zeroes(std::uint64_t offset, std::uint64_t length, bool no_hole, void* call)
    {
        return begin<Done>("zero " + std::to_string(offset) + ' ' + std::to_string(length)
                               + (no_hole ? " no_hole" : ""),
                           call);
    }

    [[nodiscard]] bool has_fast_diff() const { return cluster.fast_diff; }
    int find_areas(const std::string& since, std::uint64_t offset, std::uint64_t length,
                   bool whole_objects, std::vector<nbd::rbd_area>& areas)
    {
        cluster.log.push_back("find " + since + ' ' + std::to_string(offset) + ' '
                              + std::to_string(length) + (whole_objects ? " whole" : ""));
        areas = cluster.areas;
        return -cluster.refuses_to_find;
    }

private:
    template <auto Done>
    static int begin(std::string what, void* call, std::function<void(std::int64_t)> effect = {})
    {
        cluster.log.push_back(what);
        if (cluster.refuses_to_begin != 0)
            return -cluster.refuses_to_begin;
        cluster.begun.push_back({std::move(what), [call, effect](std::int64_t result) {
                                     if (effect)
                                         effect(result);
                                     Done(call, result);
                                 }});
        return 0;
    }

    bool read_only_;
};
