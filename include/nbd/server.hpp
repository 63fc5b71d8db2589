// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/mem_backend.hpp>
#include <nbd/basic_server.hpp>
#include <nbd/threading/on_executor.hpp>
#include <nbd/threading/per_client_threads.hpp>
#include <nbd/threading/strand_pool.hpp>
#include <nbd/transport/tcp_transport.hpp>
#include <nbd/transport/unix_transport.hpp>
#include <nbd/version.hpp>
