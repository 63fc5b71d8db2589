// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <system_error>
#include <type_traits>

namespace nbd::kernel {

/// Why an export cannot be attached to a block device of the kernel, or be detached. Other errors
/// of the system keep their own category.
enum class errc {
    /// The kernel has no NBD client: its module `nbd` is not loaded.
    no_module = 1,
    /// The process has no CAP_SYS_ADMIN in the initial user namespace.
    not_permitted,
    /// The name of the device is not /dev/nbdN.
    bad_device_name,
    /// The kernel cannot make a device of this number.
    no_such_device,
    /// The device is in use, and is not the one of a server with the same identifier that has died.
    device_busy,
    /// Every device is in use, and the kernel cannot make more.
    no_free_device,
    /// The kernel is too old for the identifier of a device (before 5.14).
    no_identifiers,
    /// Several connections were asked for, and the export does not promise `multi_conn`.
    one_connection_only,
    /// The block size is no power of two from 512 to the kernel's page size.
    bad_block_size,
    /// The export's maximum block size is less than the kernel's page size.
    maximum_too_small,
    /// The server closed the connection before the export was open, or gave it no place.
    not_served,
    /// The server does not open the export, or the device does not appear, in time.
    not_ready,
    /// The device is disconnected, but another process still has it open.
    still_open,
};

}  // namespace nbd::kernel

// Outside namespace nbd, as nbd_error_category is.
class nbd_kernel_error_category final : public std::error_category {
public:
    [[nodiscard]] const char* name() const noexcept override { return "nbd.kernel"; }
    [[nodiscard]] std::string message(int value) const override
    {
        using nbd::kernel::errc;
        switch (static_cast<errc>(value)) {
        case errc::no_module:
            return "the kernel's module nbd is not loaded";
        case errc::not_permitted:
            return "attaching a device needs the capability CAP_SYS_ADMIN";
        case errc::bad_device_name:
            return "a device must be named /dev/nbdN";
        case errc::no_such_device:
            return "the kernel cannot make this device";
        case errc::device_busy:
            return "the device is in use";
        case errc::no_free_device:
            return "no device is free";
        case errc::no_identifiers:
            return "the kernel is too old for identifiers of devices, which need Linux 5.14";
        case errc::one_connection_only:
            return "the export does not support several connections";
        case errc::bad_block_size:
            return "the device's block size must be a power of two from 512 to the page size";
        case errc::maximum_too_small:
            return "the export's maximum block size is less than a page";
        case errc::not_served:
            return "the server closed the device's connection";
        case errc::not_ready:
            return "the device was not ready in time";
        case errc::still_open:
            return "another process still has the device open";
        }
        return "unknown error";
    }
};

namespace nbd::kernel {

/// The category of errc, named "nbd.kernel".
[[nodiscard]] inline const std::error_category& error_category() noexcept
{
    static const nbd_kernel_error_category category;
    return category;
}

/// For std::error_code's converting constructor.
[[nodiscard]] inline std::error_code make_error_code(errc e) noexcept
{
    return {static_cast<int>(e), error_category()};
}

}  // namespace nbd::kernel

template <>
struct std::is_error_code_enum<nbd::kernel::errc> : std::true_type {};
