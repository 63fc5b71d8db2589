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
#include <limits>
#include <span>
#include <string_view>
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

/// Something that happened during a run, for the model, which judges it afterwards.
struct event {
    enum class kind { received, sent, failed, left_out, stops };
    kind what;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    int call = 0;
    int error = 0;
};

/// A stream that the client has filled before. It keeps the order of all events.
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
        stopping = false;
        ended_ = broken_ = false;
        heard.clear();
        events.clear();
    }

    template <class Buffers>
    std::size_t read_some(const Buffers& to, boost::system::error_code& error)
    {
        if (fails(error))
            return 0;
        if (input_.empty()) {
            ended_ = true;
            error = boost::asio::error::eof;
            return 0;
        }
        const auto n = boost::asio::buffer_copy(
            to, boost::asio::buffer(input_.data(), std::min(at_a_time_, input_.size())));
        input_ = input_.subspan(n);
        note({.what = event::kind::received, .length = n});
        error = {};
        return n;
    }
    template <class Buffers>
    std::size_t write_some(const Buffers& from, boost::system::error_code& error)
    {
        if (fails(error))
            return 0;
        // What the client takes at once is related to what it sends at once.
        auto left = at_a_time_ == all ? all : 16 * at_a_time_;
        std::size_t n = 0;
        for (auto at = boost::asio::buffer_sequence_begin(from);
             at != boost::asio::buffer_sequence_end(from) && left != 0; ++at) {
            const boost::asio::const_buffer next{*at};
            const auto* const begin = static_cast<const std::byte*>(next.data());
            const auto taken = std::min(next.size(), left);
            heard.insert(heard.end(), begin, begin + taken);
            left -= taken;
            n += taken;
        }
        note({.what = event::kind::sent, .length = n});
        error = {};
        return n;
    }

    void note(event e) { events.push_back(e); }

    /// Tells the model what has happened, in the same order.
    template <class Model>
    void replay(Model& model, std::span<const std::byte> input) const
    {
        std::span<const std::byte> answers{heard};
        for (const auto& e : events) {
            const auto n = static_cast<std::size_t>(e.length);
            switch (e.what) {
            case event::kind::received:
                model.client_sent(input.first(n));
                input = input.subspan(n);
                break;
            case event::kind::sent:
                model.server_sent(answers.first(n));
                answers = answers.subspan(n);
                break;
            case event::kind::failed:
                model.backend_failed(static_cast<nbd_model::call>(e.call), e.error, e.offset,
                                     e.length);
                break;
            case event::kind::left_out:
                model.backend_left_out(e.offset, e.length);
                break;
            case event::kind::stops:
                model.server_stops();
                break;
            }
        }
        if (ended_)
            model.client_ended();
        model.ended(!broken_);
    }
    std::size_t operations() const { return operations_; }
    /// Whether the session has read to the end.
    bool ended() const { return ended_; }
    /// Whether an operation has failed.
    bool broken() const { return broken_; }

    static constexpr std::size_t all = std::numeric_limits<std::size_t>::max();
    std::vector<std::byte> heard;
    std::vector<event> events;
    std::atomic<bool> stopping{false};

private:
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
    bool ended_ = false;
    bool broken_ = false;
};

}  // namespace nbd_fuzz
