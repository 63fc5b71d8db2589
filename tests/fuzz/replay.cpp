// SPDX-License-Identifier: MIT
// Runs a target over files, and over all files in folders, with any compiler: each file of the
// corpus is a regression test.
//
//     nbd-fuzz-replay TARGET FILE-OR-FOLDER...
#include "targets.hpp"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

std::string present;  ///< the file of the run that has not ended

void name_file()
{
    if (!present.empty())
        std::fprintf(stderr, "the input is %s\n", present.c_str());
}

}  // namespace

int main(int argc, char** argv)
{
    namespace fs = std::filesystem;
    const auto run = nbd_fuzz::target_named(argc > 1 ? argv[1] : "");
    std::vector<fs::path> files;
    for (int i = 2; i < argc; ++i) {
        if (!fs::is_directory(argv[i])) {
            files.emplace_back(argv[i]);
            continue;
        }
        for (const auto& entry : fs::recursive_directory_iterator{argv[i]})
            if (entry.is_regular_file())
                files.push_back(entry.path());
    }
    if (run == nullptr || files.empty()) {
        std::fprintf(stderr, "usage: %s TARGET FILE-OR-FOLDER...\n", argv[0]);
        return 2;
    }
    std::sort(files.begin(), files.end());
    // A sanitizer exits, a difference from the model aborts.
    std::atexit(name_file);
    std::signal(SIGABRT, [](int) { name_file(); });
    for (const auto& file : files) {
        present = file.string();
        std::ifstream from{file, std::ios::binary};
        const std::vector<char> input{std::istreambuf_iterator<char>{from}, {}};
        // Of exactly the size of the input, so that a sanitizer sees a read past its end.
        const std::vector<std::uint8_t> exact(input.begin(), input.end());
        run(exact.data(), exact.size());
    }
    present.clear();
    std::printf("%s: %zu inputs\n", argv[1], files.size());
    return 0;
}
