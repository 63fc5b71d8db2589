// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <type_traits>
#include <utility>

namespace nbd_test {

/// A session as a policy launches it: `make()` returns its task, `done()` is called by the
/// destructor.
template <class Make, class Done>
class reporting {
public:
    reporting(Make make, Done done) : make_{std::move(make)}, done_{std::move(done)} {}
    reporting(reporting&& other) noexcept
        : make_{std::move(other.make_)}, done_{std::move(other.done_)}
    {
        other.done_.reset();
    }
    reporting& operator=(reporting&&) = delete;
    ~reporting()
    {
        if (done_)
            (*done_)();
    }
    [[nodiscard]] auto operator()() { return make_(); }

private:
    static_assert(std::is_nothrow_move_constructible_v<Done>);
    Make make_;
    std::optional<Done> done_;
};

}  // namespace nbd_test
