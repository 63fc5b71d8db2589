// SPDX-License-Identifier: MIT
// Starts a server, reads from it as a client does, and stops it.
#include <nbd/server.hpp>

#include <boost/asio.hpp>
#include <boost/endian/conversion.hpp>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <stdlib.h>
#include <unistd.h>

namespace asio = boost::asio;

namespace {

constexpr std::uint64_t disk_size = 1 << 20;
constexpr std::uint64_t nbdmagic = 0x4e42444d41474943;
constexpr std::uint64_t ihaveopt = 0x49484156454f5054;
constexpr std::uint32_t request_magic = 0x25609513;
constexpr std::uint32_t simple_reply_magic = 0x67446698;

template <class T>
T read(asio::local::stream_protocol::socket& socket)
{
    std::array<unsigned char, sizeof(T)> bytes;
    asio::read(socket, asio::buffer(bytes));
    return boost::endian::endian_load<T, sizeof(T), boost::endian::order::big>(bytes.data());
}

template <class T>
void write(asio::local::stream_protocol::socket& socket, T value)
{
    boost::endian::native_to_big_inplace(value);
    asio::write(socket, asio::buffer(&value, sizeof value));
}

void expect(bool holds, const char* what)
{
    if (!holds)
        throw std::runtime_error(what);
}

void speak(const std::string& path)
{
    asio::io_context context;
    asio::local::stream_protocol::socket socket{context};
    socket.connect(asio::local::stream_protocol::endpoint{path});

    expect(read<std::uint64_t>(socket) == nbdmagic, "NBDMAGIC");
    expect(read<std::uint64_t>(socket) == ihaveopt, "IHAVEOPT");
    expect((read<std::uint16_t>(socket) & 3) == 3, "fixed newstyle, without zeroes");
    write<std::uint32_t>(socket, 3);

    const std::string name = "test";
    write<std::uint64_t>(socket, ihaveopt);
    write<std::uint32_t>(socket, 1);  // EXPORT_NAME
    write<std::uint32_t>(socket, static_cast<std::uint32_t>(name.size()));
    asio::write(socket, asio::buffer(name));
    expect(read<std::uint64_t>(socket) == disk_size, "the size of the disk");
    expect((read<std::uint16_t>(socket) & 1) == 1, "transmission flags");

    write<std::uint32_t>(socket, request_magic);
    write<std::uint16_t>(socket, 0);
    write<std::uint16_t>(socket, 0);  // READ
    write<std::uint64_t>(socket, 42);
    write<std::uint64_t>(socket, 4096);
    write<std::uint32_t>(socket, 512);
    expect(read<std::uint32_t>(socket) == simple_reply_magic, "a simple reply");
    expect(read<std::uint32_t>(socket) == 0, "no error");
    expect(read<std::uint64_t>(socket) == 42, "the request's cookie");
    std::vector<char> data(512, 'x');
    asio::read(socket, asio::buffer(data));
    expect(data == std::vector<char>(512), "a new disk is zero");

    write<std::uint32_t>(socket, request_magic);
    write<std::uint16_t>(socket, 0);
    write<std::uint16_t>(socket, 2);  // DISC
    write<std::uint64_t>(socket, 43);
    write<std::uint64_t>(socket, 0);
    write<std::uint32_t>(socket, 0);
}

}  // namespace

int main()
{
    char folder[] = "/tmp/nbd-test-package.XXXXXX";
    if (mkdtemp(folder) == nullptr)
        return EXIT_FAILURE;
    const std::string path = std::string{folder} + "/nbd.sock";
    int status = EXIT_SUCCESS;
    try {
        nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads> server{
            {.path = path}};
        server.exports().add("test", nbd::mem_backend{disk_size});
        server.start();
        speak(path);
        server.stop();
        std::cout << "nbd: a server was started, spoken to and stopped\n";
    } catch (const std::exception& error) {
        std::cerr << "nbd: " << error.what() << '\n';
        status = EXIT_FAILURE;
    }
    rmdir(folder);
    return status;
}
