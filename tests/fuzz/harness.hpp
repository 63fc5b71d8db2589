// SPDX-License-Identifier: MIT
// What the targets share: input, a stream in memory, and the end of a run.
//
// An input is a few bytes that choose the circumstances, then what the client sends. So that long
// payloads are possible in short inputs, `*REP` n n n b in the client's bytes stands for nnn (a
// big-endian number) times the byte b.
#pragma once

#include "transmission_model.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace nbd_fuzz {

/// The bytes at the front of an input that choose the circumstances. Past the end they are 0.
class choices {
public:
    explicit choices(std::span<const std::byte>& input) : input_{input} {}
    unsigned next()
    {
        if (input_.empty())
            return 0;
        const auto value = std::to_integer<unsigned>(input_.front());
        input_ = input_.subspan(1);
        return value;
    }
    /// One of these.
    template <class T, std::size_t N>
    T next(const std::array<T, N>& of)
    {
        return of[next() % N];
    }

private:
    std::span<const std::byte>& input_;
};

/// Expands `*REP`, to at most `most` bytes.
inline void expand(std::span<const std::byte> from, std::vector<std::byte>& to, std::size_t most)
{
    to.clear();
    const std::string_view all{reinterpret_cast<const char*>(from.data()), from.size()};
    for (std::size_t at = 0;;) {
        const auto mark = all.find("*REP", at);
        const auto plain = from.subspan(at, std::min(mark, all.size()) - at);
        to.insert(to.end(), plain.begin(), plain.end());
        if (mark == all.npos || all.size() - mark < 8)
            break;
        const auto n = nbd_model::fields{from.subspan(mark + 3, 4)}.u32() & 0xffffffU;
        to.insert(to.end(), std::min<std::size_t>(n, most - std::min(most, to.size())),
                  from[mark + 7]);
        at = mark + 8;
    }
}

/// The most bytes of a client that are worth their time, if that many arrive at a time.
inline std::size_t most_bytes(std::size_t at_a_time)
{
    constexpr std::size_t most = std::size_t{256} << 10;
    return at_a_time > most / 1024 ? most : 1024 * at_a_time;
}

/// Ends the program: the server has done what the model does not allow.
[[noreturn]] inline void report(const nbd_model::difference& why)
{
    std::fprintf(stderr, "difference from the model: %s\n", why.what());
    std::abort();
}

/// Something that happens during a run. The model judges it at once.
struct event {
    enum class kind { received, sent, failed, left_out, stops, ended };
    kind what;
    nbd_model::octets bytes{};
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    int call = 0;
    int error = 0;
};

/// What a client takes of the replies. One READ can ask for 32 MiB, which takes the time of a
/// thousand short inputs, so the fuzzer takes less than the replay.
inline std::size_t most_heard = std::size_t{40} << 20;

/// A stream that the client has filled before.
class memory_stream {
public:
    /// `stops_at`: before this operation, counted from 1, the server begins to stop.
    void begin(std::span<const std::byte> input, std::size_t at_a_time, std::size_t fails_at,
               std::size_t stops_at)
    {
        input_ = input;
        at_a_time_ = at_a_time;
        fails_at_ = fails_at;
        stops_at_ = stops_at;
        operations_ = 0;
        takes_ = at_a_time > most_heard / 16384 ? most_heard : 16384 * at_a_time;
        stopping = false;
        ended_ = broken_ = false;
        tell_ = nullptr;
    }
    /// From now on this model is told what happens.
    template <class Model>
    void judge_by(Model& model)
    {
        model_ = &model;
        tell_ = [](void* m, const event& e) { tell(*static_cast<Model*>(m), e); };
    }
    /// The session is over.
    template <class Model>
    void over(Model& model)
    {
        tell_ = nullptr;
        model.ended(!broken_);
    }

    template <class Buffers>
    std::size_t read_some(const Buffers& to, boost::system::error_code& error)
    {
        if (fails(error))
            return 0;
        if (input_.empty()) {
            if (!std::exchange(ended_, true))
                note({.what = event::kind::ended});
            error = boost::asio::error::eof;
            return 0;
        }
        const auto n = boost::asio::buffer_copy(
            to, boost::asio::buffer(input_.data(), std::min(at_a_time_, input_.size())));
        note({.what = event::kind::received, .bytes = input_.first(n)});
        input_ = input_.subspan(n);
        error = {};
        return n;
    }
    template <class Buffers>
    std::size_t write_some(const Buffers& from, boost::system::error_code& error)
    {
        if (fails(error))
            return 0;
        // What the client takes at once is related to what it sends at once.
        auto left = std::min(takes_, at_a_time_ == all ? all : 16 * at_a_time_);
        if (left == 0) {
            broken_ = true;
            error = boost::asio::error::connection_reset;
            return 0;
        }
        std::size_t n = 0;
        for (auto at = boost::asio::buffer_sequence_begin(from);
             at != boost::asio::buffer_sequence_end(from) && left != 0; ++at) {
            const boost::asio::const_buffer next{*at};
            const auto taken = std::min(next.size(), left);
            note({.what = event::kind::sent,
                  .bytes = {static_cast<const std::byte*>(next.data()), taken}});
            left -= taken;
            n += taken;
        }
        takes_ -= n;
        error = {};
        return n;
    }

    void note(const event& e)
    {
        // A session may catch what is thrown here, so nothing is.
        try {
            if (tell_ != nullptr)
                tell_(model_, e);
        } catch (const nbd_model::difference& why) {
            report(why);
        }
    }
    std::size_t operations() const { return operations_; }
    /// Whether the session has read to the end.
    bool ended() const { return ended_; }
    /// Whether an operation has failed.
    bool broken() const { return broken_; }

    static constexpr std::size_t all = std::numeric_limits<std::size_t>::max();
    std::atomic<bool> stopping{false};

private:
    template <class Model>
    static void tell(Model& model, const event& e)
    {
        switch (e.what) {
        case event::kind::received:
            return model.client_sent(e.bytes);
        case event::kind::sent:
            return model.server_sent(e.bytes);
        case event::kind::failed:
            return model.backend_failed(static_cast<nbd_model::call>(e.call), e.error, e.offset,
                                        e.length);
        case event::kind::left_out:
            return model.backend_left_out(e.offset, e.length);
        case event::kind::stops:
            return model.server_stops();
        case event::kind::ended:
            return model.client_ended();
        }
    }
    bool fails(boost::system::error_code& error)
    {
        if (++operations_ == stops_at_) {
            stopping = true;
            note({.what = event::kind::stops});
        }
        if (operations_ <= fails_at_)
            return false;
        broken_ = true;
        error = boost::asio::error::connection_reset;
        return true;
    }

    std::span<const std::byte> input_;
    std::size_t at_a_time_ = all;
    std::size_t fails_at_ = all;
    std::size_t stops_at_ = 0;
    std::size_t operations_ = 0;
    std::size_t takes_ = 0;
    void (*tell_)(void*, const event&) = nullptr;
    void* model_ = nullptr;
    bool ended_ = false;
    bool broken_ = false;
};

}  // namespace nbd_fuzz
