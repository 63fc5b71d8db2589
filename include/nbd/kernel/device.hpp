// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/kernel/error.hpp>
#include <nbd/kernel/message.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <algorithm>
#include <bit>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd::kernel {

/// What attach() wants of a device.
struct device_request {
    std::optional<std::uint32_t> index{};  ///< nullopt: any free device
    std::uint64_t block_size = 0;          ///< 0: the smallest that the export allows
    std::uint64_t timeout = 0;             ///< seconds
    std::uint64_t dead_connection_timeout = 0;
    std::string identifier{};
    std::chrono::milliseconds wait_for_device{0};
    std::chrono::milliseconds ready_timeout{10'000};
    std::stop_token stop{};
};

/// Socket pairs whose other ends a server has adopted.
struct device_sockets {
    std::vector<owned_descriptor> kernels;   ///< for the kernel
    std::vector<owned_descriptor> observed;  ///< duplicates of the server's ends
};

/// *Returns* N of "/dev/nbdN"; nullopt for another name.
[[nodiscard]] inline std::optional<std::uint32_t> index_of(std::string_view name)
{
    constexpr std::string_view folder = "/dev/nbd";
    if (!name.starts_with(folder))
        return std::nullopt;
    name.remove_prefix(folder.size());
    std::uint32_t index = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
    if (error != std::errc{} || end != name.data() + name.size() || std::to_string(index) != name)
        return std::nullopt;
    return index;
}

/// A block device of the kernel's NBD client, by the rules of the kernel's netlink interface.
/// `System`: linux_system, or a test's.
/// *Thread safety*: distinct objects.
template <class System>
class device {
public:
    /// How long a device is waited for that only seems to be in use: a process has it open for a
    /// moment, or its server is just dying.
    static constexpr std::chrono::milliseconds settling{2'000};

    explicit device(System system = {}) : system_{std::move(system)} {}

    /// *Errors*: errc::no_module; the system's.
    [[nodiscard]] std::error_code open() { return system_.open(); }

    /// Attaches an export of these terms. `connect(device_sockets&)` makes connections to its
    /// server, and returns an error. It is called again for each try to take a device over.
    /// *Errors*: errc; those of `connect`; the system's. *Cancellation*: device_request::stop ends
    /// the waits, with operation_canceled.
    template <class Connect>
    [[nodiscard]] std::error_code attach(device_request wanted, const protocol::export_terms& terms,
                                         device_sockets sockets, Connect connect)
    {
        wanted_ = std::move(wanted);
        block_size_ = wanted_.block_size;
        if (block_size_ == 0)
            block_size_ = std::max<std::uint64_t>(terms.blocks.minimum, 512);
        if (!std::has_single_bit(block_size_) || block_size_ < 512
            || block_size_ < terms.blocks.minimum || block_size_ > System::page_size())
            return errc::bad_block_size;
        if (terms.blocks.maximum < System::page_size())
            return errc::maximum_too_small;
        const auto began = System::clock::now();
        for (;;) {
            auto failed = connect_device(terms, sockets);
            bool passes = !wanted_.index || is_passing(*wanted_.index);
            if (failed && wanted_.index && is_predecessor(*wanted_.index)) {
                passes = true;
                failed = take_over(*wanted_.index, sockets);
                if (!failed)
                    took_over_ = true;
                else if (const auto broken = connect(sockets))
                    return broken;
            }
            if (!failed)
                break;
            if (!may_pass(failed))
                return is_unknown(failed) ? errc::no_such_device : failed;
            const auto waits =
                std::max(wanted_.wait_for_device, passes ? settling : std::chrono::milliseconds{0});
            if (System::clock::now() - began >= waits)
                return wanted_.index ? errc::device_busy : errc::no_free_device;
            if (wanted_.stop.stop_requested())
                return std::make_error_code(std::errc::operation_canceled);
            system_.wait(std::chrono::milliseconds{50});
        }
        sockets.kernels.clear();
        owner_ = System::attribute(index_, "pid");
        const auto failed = finish(terms);
        if (failed && !took_over_)  // a device that was taken over may be mounted
            static_cast<void>(disconnect());
        return failed;
    }

    /// Gives the device the size of the export, in bytes.
    [[nodiscard]] std::error_code resize(std::uint64_t bytes)
    {
        return request(NBD_CMD_RECONFIGURE,
                       {.index = index_, .size = whole_blocks(bytes), .block_size = block_size_});
    }

    /// Disconnects the device, and waits until no process has it open.
    /// *Errors*: errc::still_open; the system's.
    [[nodiscard]] std::error_code detach()
    {
        if (System::attribute(index_, "pid") != owner_)
            return {};  // somebody has detached it, and it may have another server
        if (const auto failed = disconnect())
            return failed;
        return wait_until([this] { return !is_connected(); }) ? std::error_code{}
                                                              : errc::still_open;
    }

    [[nodiscard]] std::uint32_t index() const noexcept { return index_; }
    /// Whether the device was another server's, which has died.
    [[nodiscard]] bool took_over() const noexcept { return took_over_; }

private:
    static std::vector<int> numbers(const std::vector<owned_descriptor>& sockets)
    {
        std::vector<int> all;
        all.reserve(sockets.size());
        for (const auto& one : sockets)
            all.push_back(one.get());
        return all;
    }
    /// Kernels before 5.4 take a time of 0 for no time at all.
    [[nodiscard]] static std::optional<std::uint64_t> unless_zero(std::uint64_t seconds) noexcept
    {
        return seconds == 0 ? std::nullopt : std::optional{seconds};
    }
    [[nodiscard]] std::uint64_t whole_blocks(std::uint64_t bytes) const noexcept
    {
        return bytes - bytes % block_size_;
    }

    [[nodiscard]] std::error_code request(std::uint8_t command, device_configuration c)
    {
        if (command != NBD_CMD_STATUS && command != NBD_CMD_DISCONNECT)
            c.identifier = wanted_.identifier;
        answered_ = {};
        const auto failed =
            system_.request(message{system_.family(), command, c}, [this](::nlmsghdr* header) {
                if (auto said = parse(header))
                    answered_ = std::move(*said);
            });
        return failed == std::errc::operation_not_permitted ? errc::not_permitted : failed;
    }
    [[nodiscard]] std::error_code connect_device(const protocol::export_terms& terms,
                                                 const device_sockets& sockets)
    {
        const auto failed =
            request(NBD_CMD_CONNECT,
                    {.index = wanted_.index,
                     .size = whole_blocks(terms.size),
                     .block_size = block_size_,
                     .timeout = unless_zero(wanted_.timeout),
                     .dead_connection_timeout = unless_zero(wanted_.dead_connection_timeout),
                     .server_flags = terms.flags,
                     .sockets = numbers(sockets.kernels)});
        if (failed)
            return failed;
        if (!answered_.index)
            return std::make_error_code(std::errc::protocol_error);
        index_ = *answered_.index;
        return {};
    }
    /// *Returns* device_or_resource_busy if the device's server lives. Then the connections are
    /// closed.
    [[nodiscard]] std::error_code take_over(std::uint32_t index, device_sockets& sockets)
    {
        // No size: where it differs, the kernel would wait for requests that only the new
        // connections can answer.
        const auto failed =
            request(NBD_CMD_RECONFIGURE,
                    {.index = index,
                     .timeout = unless_zero(wanted_.timeout),
                     .dead_connection_timeout = unless_zero(wanted_.dead_connection_timeout),
                     .sockets = numbers(sockets.kernels)});
        sockets.kernels.clear();
        if (failed)  // EINVAL: by now, the device is free, or has another identifier
            return failed == std::errc::invalid_argument
                ? std::make_error_code(std::errc::device_or_resource_busy)
                : failed;
        index_ = index;
        // The kernel drops sockets without an error if no connection of the device is dead.
        const bool used = std::any_of(sockets.observed.begin(), sockets.observed.end(),
                                      [](const auto& one) { return !System::hung_up(one.get()); });
        sockets.observed.clear();
        return used ? std::error_code{} : std::make_error_code(std::errc::device_or_resource_busy);
    }
    /// Whether a process has the device open that no server has.
    [[nodiscard]] bool is_passing(std::uint32_t index) const
    {
        return !System::attribute(index, "pid");
    }
    /// Whether the device's server was one with our identifier.
    [[nodiscard]] bool is_predecessor(std::uint32_t index) const
    {
        return !wanted_.identifier.empty()
            && System::attribute(index, "backend") == wanted_.identifier;
    }
    /// Whether the same request may succeed later.
    [[nodiscard]] bool may_pass(const std::error_code& failed) const
    {
        return failed == std::errc::device_or_resource_busy || failed == std::errc::file_exists
            || (failed == std::errc::invalid_argument && !wanted_.index);
    }
    /// Whether the kernel does not make a device of the wanted number.
    [[nodiscard]] bool is_unknown(const std::error_code& failed) const
    {
        return failed == std::errc::invalid_argument && !System::attribute(*wanted_.index, "size");
    }

    /// The device is connected. Sets what the kernel does not take by netlink, and waits until the
    /// device can be used.
    [[nodiscard]] std::error_code finish(const protocol::export_terms& terms)
    {
        if (!wanted_.identifier.empty()
            && System::attribute(index_, "backend") != wanted_.identifier)
            return errc::no_identifiers;
        if (took_over_)  // a file system may rely on the block size
            block_size_ =
                number(System::attribute(index_, "queue/logical_block_size")).value_or(block_size_);
        const auto bytes = whole_blocks(terms.size);
        const auto sectors = std::to_string(bytes / 512);
        if (took_over_ && System::attribute(index_, "size") != sectors)
            if (const auto failed = resize(bytes))
                return failed;
        if (const auto failed = limit_requests(terms.blocks.maximum))
            return failed;
        const bool ready = wait_until([&] {
            return wanted_.stop.stop_requested()
                || (System::attribute(index_, "size") == sectors && System::has_node(index_));
        });
        if (wanted_.stop.stop_requested())
            return std::make_error_code(std::errc::operation_canceled);
        return ready ? std::error_code{} : errc::not_ready;
    }
    /// Keeps the kernel's requests below the export's maximum block size.
    [[nodiscard]] std::error_code limit_requests(std::uint32_t maximum) const
    {
        constexpr auto name = "queue/max_sectors_kb";
        if (number(System::attribute(index_, name)).value_or(0) <= maximum / 1024)
            return {};
        return System::set_attribute(index_, name, std::to_string(maximum / 1024))
            ? std::error_code{}
            : errc::maximum_too_small;
    }
    [[nodiscard]] static std::optional<std::uint64_t>
    number(const std::optional<std::string>& text) noexcept
    {
        std::uint64_t value = 0;
        if (!text
            || std::from_chars(text->data(), text->data() + text->size(), value).ec != std::errc{})
            return std::nullopt;
        return value;
    }
    [[nodiscard]] std::error_code disconnect()
    {
        return request(NBD_CMD_DISCONNECT, {.index = index_});
    }
    [[nodiscard]] bool is_connected()
    {
        if (request(NBD_CMD_STATUS, {.index = index_}))
            return false;
        return std::any_of(answered_.devices.begin(), answered_.devices.end(),
                           [this](const auto& d) { return d.index == index_ && d.connected; });
    }
    template <class Predicate>
    [[nodiscard]] bool wait_until(Predicate met)
    {
        const auto began = System::clock::now();
        while (!met()) {
            if (System::clock::now() - began >= wanted_.ready_timeout)
                return false;
            system_.wait(std::chrono::milliseconds{100});
        }
        return true;
    }

    System system_;
    device_request wanted_;
    std::uint64_t block_size_ = 512;
    std::uint32_t index_ = 0;
    std::optional<std::string> owner_;
    answer answered_;
    bool took_over_ = false;
};

}  // namespace nbd::kernel
