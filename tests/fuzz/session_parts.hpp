// SPDX-License-Identifier: MIT
// What a session needs beside its exports, made once and reset for each run.
#pragma once

#include "harness.hpp"
#include <nbd/concepts/observer.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/deadline.hpp>
#include <nbd/settings.hpp>

#include <cstddef>
#include <optional>
#include <span>

namespace nbd_fuzz {

struct session_parts {
    memory_stream stream;
    nbd::settings limits;
    nbd::silent observer;
    nbd::session::ticker clock;
    nbd::session::memory_budget memory{nbd::settings{}};
    std::optional<nbd::session::context<nbd::silent>> context;

    void begin(std::span<const std::byte> input, std::size_t at_a_time, std::size_t fails_at,
               std::size_t stops_at)
    {
        stream.begin(input, at_a_time, fails_at, stops_at);
        // The context is an aggregate that cannot be moved, so it is constructed in place.
        struct made {
            session_parts& self;
            operator nbd::session::context<nbd::silent>() const
            {
                return {self.limits,
                        self.observer,
                        {.id = 1, .peer = "fuzz"},
                        nbd::session::deadline{self.clock},
                        nbd::session::deadline{self.clock},
                        self.stream.stopping,
                        {self.memory}};
            }
        };
        context.emplace(made{*this});
    }
};

}  // namespace nbd_fuzz
