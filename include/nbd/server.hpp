// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/requirements.hpp>
#ifndef NBD_MISSES_A_REQUIREMENT

// First, so that the compiler names few headers before an error in one of these.
// clang-format off
#include <nbd/concepts/observer.hpp>
#include <nbd/concepts/threading_policy.hpp>
#include <nbd/concepts/transport.hpp>
#include <nbd/concepts/kinds.hpp>
#include <nbd/concepts/shapes.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/acceptance/parts_fit.hpp>
#include <nbd/acceptance/wrong_arguments.hpp>
// clang-format on
#include <nbd/authorise/allow.hpp>
#include <nbd/backend/mem_backend.hpp>
#include <nbd/basic_server.hpp>
#include <nbd/concepts/offers.hpp>
#include <nbd/threading/on_executor.hpp>
#include <nbd/threading/per_client_threads.hpp>
#include <nbd/threading/strand_pool.hpp>
#include <nbd/transport/tcp_transport.hpp>
#include <nbd/transport/unix_transport.hpp>
#include <nbd/version.hpp>

#endif  // NBD_MISSES_A_REQUIREMENT
