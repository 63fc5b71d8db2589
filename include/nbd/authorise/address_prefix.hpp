// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/ip_address.hpp>
#include <nbd/vocabulary/printable.hpp>

#include <boost/asio/ip/network_v4.hpp>
#include <boost/asio/ip/network_v6.hpp>
#include <boost/system/error_code.hpp>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

namespace nbd {

/// A single IP address, or a range of addresses in the notation of CIDR.
class address_prefix {
public:
    /// Parses an address or a prefix: "192.0.2.7", "10.0.0.0/8", "::1", "fe80::/10". A mapped
    /// address, or a prefix of mapped ones ("::ffff:10.0.0.0/104"), is the IPv4 address or prefix.
    /// *Errors*: std::invalid_argument, whose text names `text` and what was expected; also for a
    /// prefix with bits of a host, such as "10.0.0.1/8", and for an address with a zone.
    explicit address_prefix(std::string_view text) : text_{text}
    {
        using namespace boost::asio::ip;
        boost::system::error_code not_v4;
        boost::system::error_code not_v6;
        const auto slash = text_.find('/');
        const bool single = slash == text_.npos;
        const auto v4 = make_network_v4(single ? text_ + "/32" : text_, not_v4);
        const auto v6 = make_network_v6(single ? text_ + "/128" : text_, not_v6);
        // The functions of Asio end at a zero byte, and read the digits of any number.
        const bool odd = text_.find_first_of(std::string_view{"%\0", 2}) != text_.npos
            || (!single && text_.size() - slash > 4);
        if ((not_v4 && not_v6) || odd)
            throw std::invalid_argument{"nbd: expected an IP address or a prefix, such as "
                                        "10.0.0.0/8 or fe80::/10, but got \""
                                        + printable(text_) + '"'};
        if (!not_v4) {
            first_ = ip_address::v4(v4.address().to_bytes());
            bits_ = 96U + v4.prefix_length();
        } else {
            first_ = ip_address{v6.address().to_bytes()};
            bits_ = v6.prefix_length();
        }
        if (!not_v4 ? v4 != v4.canonical() : v6 != v6.canonical())
            throw std::invalid_argument{
                "nbd: expected "
                + (!not_v4 ? v4.canonical().to_string() : v6.canonical().to_string())
                + ", without bits behind the length of the prefix, but got \"" + printable(text_)
                + '"'};
    }

    /// Whether the address is one of these. An IPv6 prefix contains no IPv4 address: "::/0" is
    /// every IPv6 address, and "0.0.0.0/0" every IPv4 address.
    [[nodiscard]] bool contains(const ip_address& a) const noexcept
    {
        const std::size_t whole = bits_ / 8;
        const auto mask = static_cast<unsigned>(0xff00 >> bits_ % 8) & 0xff;
        return a.is_v4() == first_.is_v4()
            && std::equal(a.bytes.begin(), a.bytes.begin() + whole, first_.bytes.begin())
            && (whole == a.bytes.size() || ((a.bytes[whole] ^ first_.bytes[whole]) & mask) == 0);
    }
    /// *Returns* the text that was parsed.
    [[nodiscard]] const std::string& text() const noexcept { return text_; }

private:
    std::string text_;
    ip_address first_;
    unsigned bits_ = 0;  ///< of the IPv6 address
};

}  // namespace nbd
