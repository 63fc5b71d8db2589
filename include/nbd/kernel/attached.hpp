// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/kernel/device.hpp>
#include <nbd/kernel/linux_system.hpp>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

namespace nbd {

namespace kernel {

/// The size of an export, from the thread that resizes it to the one that tells the kernel.
/// *Thread safety*: any member from any thread.
class size_relay {
public:
    explicit size_relay(std::uint64_t bytes) noexcept : size_{bytes} {}

    void set(std::uint64_t bytes) noexcept
    {
        auto now = size_.load();
        while (now != ended && !size_.compare_exchange_weak(now, bytes)) {
        }
        size_.notify_all();
    }
    void end() noexcept
    {
        size_.store(ended);
        size_.notify_all();
    }
    /// Waits for another size than `known`. *Returns* it, or nullopt after end().
    [[nodiscard]] std::optional<std::uint64_t> next(std::uint64_t known) const noexcept
    {
        size_.wait(known);
        const auto now = size_.load();
        return now == ended ? std::nullopt : std::optional{now};
    }

private:
    static constexpr auto ended = std::numeric_limits<std::uint64_t>::max();  // no size

    std::atomic<std::uint64_t> size_;
};

/// An attached device, and the thread that gives it the sizes of its export.
class attachment {
public:
    explicit attachment(std::shared_ptr<void> o) : owner_{std::move(o)} {}
    attachment(const attachment&) = delete;
    attachment& operator=(const attachment&) = delete;
    ~attachment() { end_resizes(); }

    /// `bytes`: the size that the device has. *Returns* where to put later sizes.
    ///
    /// The kernel finishes requests before it changes a size. So the thread that resizes, which may
    /// be one that serves, must not wait for the kernel.
    [[nodiscard]] std::shared_ptr<size_relay> start_resizes(std::uint64_t bytes)
    {
        sizes_ = std::make_shared<size_relay>(bytes);
        resizes_ = std::thread{[this, bytes] {
            auto known = bytes;
            while (const auto now = sizes_->next(known)) {
                known = *now;
                std::error_code failed;
                try {
                    failed = device.resize(known);
                } catch (...) {  // no memory
                    failed = current_error();
                }
                const std::lock_guard lock{mutex_};
                resize_error_ = failed;
            }
        }};
        return sizes_;
    }
    void end_resizes() noexcept
    {
        if (!resizes_.joinable())
            return;
        sizes_->end();
        resizes_.join();
    }
    [[nodiscard]] std::error_code resize_error() const
    {
        const std::lock_guard lock{mutex_};
        return resize_error_;
    }

private:
    std::shared_ptr<void> owner_;  // destroyed last: it serves the device

public:
    /// The thread uses it between start_resizes() and end_resizes().
    kernel::device<linux_system> device;

private:
    std::shared_ptr<size_relay> sizes_;
    mutable std::mutex mutex_;
    std::error_code resize_error_;
    std::thread resizes_;
};

}  // namespace kernel

/// A block device that nbd::attach has made. Its destructor detaches it, as detach().
/// *Thread safety*: distinct objects. Not on a thread that runs the device's server.
class attached {
public:
    attached() noexcept = default;
    explicit attached(std::unique_ptr<kernel::attachment> state) noexcept : state_{std::move(state)}
    {
    }
    attached(attached&& other) noexcept = default;
    attached& operator=(attached&& other) noexcept
    {
        if (this != &other) {
            static_cast<void>(detach());
            state_ = std::move(other.state_);
        }
        return *this;
    }
    ~attached() { static_cast<void>(detach()); }

    /// Whether there is a device. The members below, but for detach(), need one.
    [[nodiscard]] explicit operator bool() const noexcept { return state_ != nullptr; }
    /// *Returns* "/dev/nbdN".
    [[nodiscard]] std::string path() const { return "/dev/nbd" + std::to_string(index()); }
    /// *Returns* N.
    [[nodiscard]] std::uint32_t index() const noexcept { return state_->device.index(); }
    /// Whether the device was that of another server, which has died.
    [[nodiscard]] bool took_over() const noexcept { return state_->device.took_over(); }
    /// *Returns* why the device does not have the latest size of its export; none if it has.
    [[nodiscard]] std::error_code resize_error() const { return state_->resize_error(); }

    /// Disconnects the device, and waits until no process has it open, at most for
    /// attach_options::ready_timeout. Unmount file systems before: their later requests fail. A
    /// device that another program has detached is left alone.
    /// *Errors*: kernel::errc::still_open; the kernel's. The handle is empty in any case.
    std::error_code detach() noexcept
    {
        if (!state_)
            return {};
        const auto state = std::move(state_);
        state->end_resizes();
        try {
            return state->device.detach();
        } catch (...) {
            return current_error();
        }
    }

private:
    std::unique_ptr<kernel::attachment> state_;
};

}  // namespace nbd
