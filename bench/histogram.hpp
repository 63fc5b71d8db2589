// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace bench {

/// A histogram of times in nanoseconds. A bucket is at most 1/64 as wide as its values, so
/// quantiles are exact to 1.6 %. It covers nanoseconds to centuries and uses 30 KiB.
class histogram {
public:
    void add(std::uint64_t nanoseconds, std::uint64_t times = 1)
    {
        counts_[bucket(nanoseconds)] += times;
        count_ += times;
        sum_ += nanoseconds * times;
        most_ = std::max(most_, nanoseconds);
    }
    histogram& operator+=(const histogram& other)
    {
        std::transform(counts_.begin(), counts_.end(), other.counts_.begin(), counts_.begin(),
                       [](auto a, auto b) { return a + b; });
        count_ += other.count_;
        sum_ += other.sum_;
        most_ = std::max(most_, other.most_);
        return *this;
    }

    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    [[nodiscard]] std::uint64_t most() const noexcept { return most_; }
    /// 0 if nothing was counted.
    [[nodiscard]] double mean() const noexcept
    {
        return count_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(count_);
    }
    /// The quantile `part` (0 to 1); 0 if nothing was counted.
    [[nodiscard]] std::uint64_t quantile(double part) const noexcept
    {
        const auto wanted = part * static_cast<double>(count_);
        std::uint64_t seen = 0;
        for (std::size_t i = 0; i < counts_.size(); ++i) {
            seen += counts_[i];
            if (seen != 0 && static_cast<double>(seen) >= wanted)
                return std::min(upper_end(i), most_);
        }
        return most_;
    }

private:
    static constexpr unsigned fine = 6;  // 2^6 buckets for each power of two
    static constexpr std::size_t per_power = std::size_t{1} << fine;

    static std::size_t bucket(std::uint64_t value) noexcept
    {
        if (value < per_power)
            return static_cast<std::size_t>(value);
        const auto shift = static_cast<unsigned>(std::bit_width(value)) - fine - 1;
        return shift * per_power + static_cast<std::size_t>(value >> shift);
    }
    static std::uint64_t upper_end(std::size_t bucket) noexcept
    {
        if (bucket < 2 * per_power)
            return bucket;
        const auto shift = bucket / per_power - 1;
        return ((bucket - shift * per_power + 1) << shift) - 1;
    }

    std::vector<std::uint64_t> counts_ = std::vector<std::uint64_t>((65 - fine) * per_power);
    std::uint64_t count_ = 0;
    std::uint64_t sum_ = 0;
    std::uint64_t most_ = 0;
};

}  // namespace bench
