// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/generic/basic_endpoint.hpp>
#include <boost/asio/generic/stream_protocol.hpp>

namespace nbd {

/// An Asio protocol for stream sockets of any address family, so that one type of socket serves
/// several transports. It is boost::asio::generic::stream_protocol with an acceptor.
class stream_protocol : public boost::asio::generic::stream_protocol {
public:
    using endpoint = boost::asio::generic::basic_endpoint<stream_protocol>;
    using socket = boost::asio::basic_stream_socket<stream_protocol>;
    using acceptor = boost::asio::basic_socket_acceptor<stream_protocol>;

    using boost::asio::generic::stream_protocol::stream_protocol;
};

}  // namespace nbd
