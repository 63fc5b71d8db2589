// SPDX-License-Identifier: MIT
#pragma once

#include <boost/endian/conversion.hpp>

#include <cassert>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

namespace nbd::protocol {

/// *Returns* the big-endian integer in the first bytes of `from`, which need not be aligned
/// ("Conventions": all integers are unsigned and big-endian). Requires at least sizeof(T) bytes.
template <class T>
    requires std::is_unsigned_v<T>
[[nodiscard]] inline T load(std::span<const std::byte> from) noexcept
{
    assert(from.size() >= sizeof(T));
    T value;
    std::memcpy(&value, from.data(), sizeof(T));
    return boost::endian::big_to_native(value);
}

/// Stores a big-endian integer into the first bytes of `to`. Requires at least sizeof(T) bytes;
/// `to` need not be aligned.
template <class T>
    requires std::is_unsigned_v<T>
inline void store(std::span<std::byte> to, T value) noexcept
{
    assert(to.size() >= sizeof(T));
    boost::endian::native_to_big_inplace(value);
    std::memcpy(to.data(), &value, sizeof(T));
}

/// Decodes fields one after the other from received bytes. A field past the end is empty and makes
/// `ok()` permanently false, so a decoder can read all fields and check once.
class reader {
public:
    explicit reader(std::span<const std::byte> bytes) noexcept : rest_{bytes} {}

    /// *Returns* the next integer; 0 if there are too few bytes.
    template <class T>
    [[nodiscard]] T take() noexcept
    {
        const auto field = take_bytes(sizeof(T));
        return ok_ ? load<T>(field) : T{};
    }

    /// *Returns* the next `n` bytes; nothing if there are fewer.
    [[nodiscard]] std::span<const std::byte> take_bytes(std::size_t n) noexcept
    {
        if (!ok_ || n > rest_.size()) {
            ok_ = false;
            return {};
        }
        const auto field = rest_.first(n);
        rest_ = rest_.subspan(n);
        return field;
    }

    /// As take_bytes, as text.
    [[nodiscard]] std::string_view take_string(std::size_t n) noexcept
    {
        const auto field = take_bytes(n);
        return {reinterpret_cast<const char*>(field.data()), field.size()};
    }

    /// Whether no field was read past the end.
    [[nodiscard]] bool ok() const noexcept { return ok_; }
    /// *Returns* the number of bytes that were not read.
    [[nodiscard]] std::size_t left() const noexcept { return rest_.size(); }

private:
    std::span<const std::byte> rest_;
    bool ok_ = true;
};

/// Encodes fields one after the other into bytes of the caller, which must be large enough.
class writer {
public:
    explicit writer(std::span<std::byte> bytes) noexcept : rest_{bytes} {}

    template <class T>
    writer& put(T value) noexcept
    {
        if constexpr (std::is_enum_v<T>) {
            return put(static_cast<std::underlying_type_t<T>>(value));
        } else {
            store(rest_, value);
            rest_ = rest_.subspan(sizeof(T));
            return *this;
        }
    }

    writer& put_text(std::string_view text) noexcept
    {
        assert(rest_.size() >= text.size());
        if (!text.empty())
            std::memcpy(rest_.data(), text.data(), text.size());
        rest_ = rest_.subspan(text.size());
        return *this;
    }

private:
    std::span<std::byte> rest_;
};

}  // namespace nbd::protocol
