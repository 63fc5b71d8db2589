// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/settings.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nbd::handshake {

/// Whether an option with data is malformed.
[[nodiscard]] constexpr bool takes_no_data(protocol::option o) noexcept
{
    using protocol::option;
    return o == option::list || o == option::structured_reply || o == option::extended_headers
        || o == option::starttls;
}
/// Whether every server has this option, which may be followed by data.
[[nodiscard]] constexpr bool supported(protocol::option o) noexcept
{
    using protocol::option;
    return o == option::abort || o == option::list || o == option::info || o == option::go
        || o == option::structured_reply || o == option::extended_headers
        || o == option::list_meta_context || o == option::set_meta_context;
}

/// Splits the bytes from a client into the client flags and options, within the limits of
/// nbd::settings.
class option_reader {
public:
    /// What `process` has completed.
    enum class found {
        nothing,           ///< more bytes are needed
        client_flags,      ///< `client_flags()`
        option,            ///< `option()` and `data()`
        oversized_option,  ///< `option()`; its data were too long and were discarded
        violation,         ///< `violation()`: the connection must be closed
    };

    explicit option_reader(const settings& limits) noexcept
        : most_option_bytes_{limits.option_bytes}, options_left_{limits.options_per_handshake},
          bytes_left_{limits.handshake_bytes}
    {
    }

    /// *Returns* the number of bytes that `process` takes next: at most settings.option_bytes or
    /// 4096, whichever is larger.
    [[nodiscard]] std::size_t bytes_needed() const noexcept { return bytes_needed_; }

    /// Processes exactly `bytes_needed()` bytes.
    [[nodiscard]] found process(std::span<const std::byte> bytes) noexcept
    {
        switch (phase_) {
        case phase::client_flags:
            client_flags_ = protocol::load<std::uint32_t>(bytes);
            expect_option();
            return found::client_flags;
        case phase::header:
            return process_header(bytes.first<protocol::option_header_bytes>());
        case phase::data:
            data_ = bytes;
            expect_option();
            return found::option;
        case phase::excess:
            break;
        }
        excess_ -= bytes.size();
        if (excess_ != 0) {
            expect(phase::excess, std::min(excess_, discard_step));
            return found::nothing;
        }
        expect_option();
        return found::oversized_option;
    }

    [[nodiscard]] std::uint32_t client_flags() const noexcept { return client_flags_; }
    /// *Returns* the header of the last option, also while its data are incomplete.
    [[nodiscard]] const protocol::option_header& option() const noexcept { return option_; }
    /// *Lifetime*: as the bytes that were processed last.
    [[nodiscard]] std::span<const std::byte> data() const noexcept { return data_; }
    [[nodiscard]] errc violation() const noexcept { return violation_; }

    /// Whether no byte was processed.
    [[nodiscard]] bool untouched() const noexcept { return phase_ == phase::client_flags; }
    /// Whether the next byte begins an option.
    [[nodiscard]] bool between_options() const noexcept { return phase_ == phase::header; }

    /// Makes `option()` the one that the client has sent to another program.
    void assume(protocol::option o) noexcept { option_ = {.option = o, .length = 0}; }
    /// Allows `n` more options than the settings do.
    void allow_more(std::size_t n) noexcept { options_left_ += n; }

private:
    enum class phase { client_flags, header, data, excess };

    static constexpr std::size_t discard_step = 4096;

    void expect(phase next, std::size_t bytes) noexcept
    {
        phase_ = next;
        bytes_needed_ = bytes;
    }
    void expect_option() noexcept { expect(phase::header, protocol::option_header_bytes); }
    found refuse(errc why) noexcept
    {
        violation_ = why;
        return found::violation;
    }

    found process_header(std::span<const std::byte, protocol::option_header_bytes> bytes) noexcept
    {
        data_ = {};
        const auto header = protocol::decode_option_header(bytes);
        if (!header)
            return refuse(errc::bad_option_magic);
        option_ = *header;
        if (options_left_ == 0)
            return refuse(errc::too_many_options);
        --options_left_;
        if (option_.length > bytes_left_)
            return refuse(errc::handshake_too_long);
        bytes_left_ -= option_.length;
        if (option_.length == 0)
            return found::option;
        if (option_.length <= most_option_bytes_) {
            expect(phase::data, option_.length);
        } else if (option_.option == protocol::option::export_name) {
            // No export has such a long name, and EXPORT_NAME has no error reply.
            return refuse(errc::export_name_refused);
        } else {
            excess_ = option_.length;
            expect(phase::excess, std::min(excess_, discard_step));
        }
        return found::nothing;
    }

    const std::size_t most_option_bytes_;
    std::size_t options_left_;
    std::size_t bytes_left_;
    std::size_t excess_ = 0;  ///< bytes of an oversized option that were not received yet
    std::size_t bytes_needed_ = protocol::client_flags_bytes;
    phase phase_ = phase::client_flags;
    std::uint32_t client_flags_ = 0;
    protocol::option_header option_;
    std::span<const std::byte> data_;
    errc violation_{};
};

}  // namespace nbd::handshake
