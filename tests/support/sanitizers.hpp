// SPDX-License-Identifier: MIT
// Which sanitizer the program is built with: GCC says so with macros, Clang with a feature.
#pragma once

#ifdef __has_feature
#define NBD_TEST_HAS_FEATURE(name) __has_feature(name)
#else
#define NBD_TEST_HAS_FEATURE(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || NBD_TEST_HAS_FEATURE(address_sanitizer)
#define NBD_TEST_ASAN 1
#else
#define NBD_TEST_ASAN 0
#endif

#if defined(__SANITIZE_THREAD__) || NBD_TEST_HAS_FEATURE(thread_sanitizer)
#define NBD_TEST_TSAN 1
#else
#define NBD_TEST_TSAN 0
#endif
