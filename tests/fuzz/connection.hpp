// SPDX-License-Identifier: MIT
#pragma once

#include "handshake_model.hpp"
#include "transmission_model.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

namespace nbd_fuzz {

/// Both halves of the model, one after the other.
class connection {
public:
    connection(const nbd_model::served& s, nbd_model::image& content, bool in_order)
        : handshake_{s}, content_{content}, in_order_{in_order}
    {
    }
    /// Exports may not open.
    void open_fails() { handshake_.open_fails(); }
    /// The server may close when a client has caused too many calls of the program.
    void calls_program() { handshake_.calls_program(); }
    /// The handshake was with another program; so no byte belongs to it.
    void begin(nbd_model::terms agreed)
    {
        agreed.most_descriptors = most_descriptors;
        transmission_.emplace(std::move(agreed), content_, in_order_);
        if (stopping_)
            transmission_->server_stops();
    }
    void begins_nothing() { refused_ = true; }
    void client_sent(nbd_model::octets bytes)
    {
        transmission_ ? transmission_->client_sent(bytes) : handshake_.client_sent(bytes);
    }
    void client_ended()
    {
        handshake_.client_ended();
        if (transmission_)
            transmission_->client_ended();
    }
    void server_sent(nbd_model::octets bytes)
    {
        if (transmission_) {
            transmission_->server_sent(bytes);
            return;
        }
        handshake_.server_sent(bytes);
        if (!handshake_.transmits())
            return;
        begin(handshake_.agreed());
        transmission_->client_sent(handshake_.client_rest());
        transmission_->server_sent(handshake_.server_rest());
    }
    void backend_failed(nbd_model::call what, int error, std::uint64_t offset, std::uint64_t length)
    {
        nbd_model::require(transmission_.has_value(), "a call of the backend in the handshake");
        transmission_->backend_failed(what, error, offset, length);
    }
    void backend_left_out(std::uint64_t offset, std::uint64_t length)
    {
        nbd_model::require(transmission_.has_value(), "a call of the backend in the handshake");
        transmission_->backend_left_out(offset, length);
    }
    void server_stops()
    {
        stopping_ = true;
        handshake_.server_stops();
        if (transmission_)
            transmission_->server_stops();
    }
    void ended(bool all_sent)
    {
        if (refused_)
            return;
        transmission_ ? transmission_->ended(all_sent) : handshake_.ended(all_sent);
    }

    std::size_t most_descriptors = 64;

private:
    nbd_model::handshake handshake_;
    nbd_model::image& content_;
    std::optional<nbd_model::transmission> transmission_;
    const bool in_order_;
    bool stopping_ = false;
    bool refused_ = false;
};

}  // namespace nbd_fuzz
