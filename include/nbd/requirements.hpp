// SPDX-License-Identifier: MIT
// What the library needs. server.hpp and basic_server.hpp include this header before all others, so
// that the first error is a sentence that names what is missing. server.hpp then declares nothing.
#pragma once

#define NBD_MISSES_A_REQUIREMENT
#if __cplusplus < 202002L
#error "nbd needs C++20: compile with -std=c++20 or newer"
#elif !defined(__linux__)
#error "nbd is for Linux alone: it uses Linux's calls for files and sockets"
#elif !defined(__cpp_exceptions)
#error "nbd needs exceptions: compile without -fno-exceptions"
#elif !__has_include(<boost/version.hpp>)
#error "nbd needs the headers of Boost 1.81 or newer: install them, or say where they are by -I"
#else
#include <boost/version.hpp>
#if BOOST_VERSION < 108100
#error "nbd needs Boost 1.81 or newer: the compiler has found older headers of Boost"
#else
#undef NBD_MISSES_A_REQUIREMENT
#endif
#endif
