// SPDX-License-Identifier: MIT
// nbd-growth: measures how costs grow with the number or the size of something. `nbd-growth --help`
// lists its arguments; bench/README.md explains the figures.
#include "growth.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <limits>
#include <regex>
#include <string>
#include <vector>

namespace {

using bench::growth::curve;
using bench::growth::effort;

struct arguments {
    std::string curves;
    double seconds = 0.25;
    bool list = false;
    bool quick = false;
    bool json = false;
};

/// A bad argument. The message names the argument and says what was expected.
struct usage_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct point {
    std::uint64_t x = 0;
    bench::growth::figures of_one;
};
struct result {
    const curve* of;
    std::vector<point> points;
    std::vector<std::string> notes;
};

/// A number with a unit of bytes if it counts bytes.
std::string number(std::uint64_t n, const std::string& of)
{
    static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (of != "bytes")
        return std::to_string(n);
    if (n == std::numeric_limits<std::int64_t>::max())
        return "8 EiB - 1";
    std::size_t unit = 0;
    for (; n >= 1024 && n % 1024 == 0 && unit < 6; ++unit)
        n /= 1024;
    return std::to_string(n) + ' ' + units[unit];
}

std::vector<curve> chosen(const arguments& a)
{
    std::vector<curve> all;
    bench::growth::add_exports(all);
    bench::growth::add_sizes(all);
    bench::growth::add_extents(all);
    bench::growth::add_flights(all);
    bench::growth::add_clients(all);
    try {
        const std::regex wanted{a.curves};
        std::erase_if(all, [&](const curve& c) { return !std::regex_search(c.name, wanted); });
    } catch (const std::regex_error& e) {
        throw usage_error{"--curves: expected a regular expression, but got \"" + a.curves
                          + "\": " + e.what()};
    }
    if (all.empty())
        throw usage_error{"no curve matches --curves " + a.curves + "; --list names them"};
    return all;
}

result measure(const curve& c, const arguments& a)
{
    constexpr std::size_t quick_points = 3;
    effort e;
    e.slice = std::chrono::duration<double>{a.seconds / static_cast<double>(e.slices)};
    if (a.quick)
        e = {.slice = std::chrono::milliseconds{1}, .slices = 2};
    result r{.of = &c, .points = {}, .notes = {}};
    for (const auto x : c.points) {
        if (a.quick && r.points.size() == quick_points)
            break;
        try {
            r.points.push_back({x, c.measure(x, e)});
        } catch (const bench::growth::left_out& why) {
            r.notes.push_back("left out: " + number(x, c.x) + ": " + why.what());
        }
    }
    return r;
}

void print_text(const result& r)
{
    const auto& c = *r.of;
    std::printf("%s: %s; %s\n  %18s %12s %8s %12s\n", c.name.c_str(), c.panel.c_str(),
                c.series.c_str(), c.x.c_str(), c.unit.c_str(), "ratio", "page faults");
    for (const auto& p : r.points)
        std::printf("  %18s %12.3f %8.2f %12.3f\n", number(p.x, c.x).c_str(), p.of_one.cost,
                    p.of_one.cost / r.points.front().of_one.cost, p.of_one.faults);
    for (const auto& note : r.notes)
        std::printf("  %s\n", note.c_str());
    std::fflush(stdout);
}

std::string quoted(const std::string& text)
{
    std::string json{'"'};
    for (const char c : text) {
        if (c == '"' || c == '\\')
            json += '\\';
        json += c;
    }
    return json + '"';
}
void print_json(const std::vector<result>& results)
{
    std::printf("{\"curves\": [");
    const char* between = "";
    for (const auto& r : results) {
        const auto& c = *r.of;
        std::printf("%s\n {\"name\": %s, \"panel\": %s, \"series\": %s, \"x\": %s, \"unit\": %s,\n"
                    "  \"points\": [",
                    between, quoted(c.name).c_str(), quoted(c.panel).c_str(),
                    quoted(c.series).c_str(), quoted(c.x).c_str(), quoted(c.unit).c_str());
        between = "";
        for (const auto& p : r.points) {
            std::printf("%s[%llu, %.6g, %.6g]", between, static_cast<unsigned long long>(p.x),
                        p.of_one.cost, p.of_one.faults);
            between = ", ";
        }
        std::printf("], \"notes\": [");
        between = "";
        for (const auto& note : r.notes) {
            std::printf("%s%s", between, quoted(note).c_str());
            between = ", ";
        }
        std::printf("]}");
        between = ",";
    }
    std::printf("\n]}\n");
}

void run(const arguments& a)
{
    const auto curves = chosen(a);
    if (a.list) {
        for (const auto& c : curves)
            std::printf("%-24s %s; %s\n", c.name.c_str(), c.panel.c_str(), c.series.c_str());
        return;
    }
    std::vector<result> results;
    for (const auto& c : curves) {
        results.push_back(measure(c, a));
        if (!a.json)
            print_text(results.back());
    }
    if (a.json)
        print_json(results);
}

}  // namespace

int main(int argc, char** argv)
{
    arguments a;
    CLI::App app{
        "Measures how the costs of a server grow with the number or the size of something.",
        "nbd-growth"};
    app.add_option("--curves", a.curves, "only the curves whose names match")->type_name("REGEX");
    app.add_option("--seconds", a.seconds, "how long to measure each point")
        ->capture_default_str()
        ->check(CLI::Range(0.001, 1e6))
        ->type_name("S");
    app.add_flag("--list", a.list, "name the curves and measure nothing");
    app.add_flag("--quick", a.quick,
                 "measure the first three points of each curve for a moment; the figures are "
                 "meaningless");
    app.add_flag("--json", a.json, "print the figures as JSON");
    try {
        app.parse(argc, argv);
        run(a);
        return 0;
    } catch (const CLI::Success& e) {
        return app.exit(e);
    } catch (const CLI::ParseError& e) {
        std::cerr << "nbd-growth: " << e.what() << '\n';
        return 2;
    } catch (const usage_error& e) {
        std::cerr << "nbd-growth: " << e.what() << '\n';
        return 2;
    } catch (const std::exception& e) {
        std::cerr << "nbd-growth: " << e.what() << '\n';
        return 1;
    }
}
