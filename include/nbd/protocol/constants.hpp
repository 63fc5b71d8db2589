// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

/// The values of the NBD specification (doc/proto.md, "Values"), in its order and with its terms.
/// Enumerators drop the `NBD_` prefix of their group; a comment names the C macro of each.
namespace nbd::protocol {

// --- Magic numbers ("Newstyle negotiation", "Transmission") --------------------------------------

inline constexpr std::uint64_t init_magic = 0x4e42444d41474943;    // NBDMAGIC
inline constexpr std::uint64_t option_magic = 0x49484156454f5054;  // IHAVEOPT
inline constexpr std::uint64_t option_reply_magic = 0x0003e889045565a9;
inline constexpr std::uint32_t request_magic = 0x25609513;           // NBD_REQUEST_MAGIC
inline constexpr std::uint32_t simple_reply_magic = 0x67446698;      // NBD_SIMPLE_REPLY_MAGIC
inline constexpr std::uint32_t structured_reply_magic = 0x668e33ef;  // NBD_STRUCTURED_REPLY_MAGIC
inline constexpr std::uint32_t extended_request_magic = 0x21e41c71;  // NBD_EXTENDED_REQUEST_MAGIC
inline constexpr std::uint32_t extended_reply_magic = 0x6e8a278c;    // NBD_EXTENDED_REPLY_MAGIC

// --- Sizes of the fixed parts, in bytes ----------------------------------------------------------

inline constexpr std::size_t greeting_bytes = 18;
inline constexpr std::size_t client_flags_bytes = 4;
inline constexpr std::size_t option_header_bytes = 16;
inline constexpr std::size_t option_reply_header_bytes = 20;
inline constexpr std::size_t request_bytes = 28;
inline constexpr std::size_t simple_reply_bytes = 16;
inline constexpr std::size_t structured_chunk_bytes = 20;
inline constexpr std::size_t extended_request_bytes = 32;
inline constexpr std::size_t extended_chunk_bytes = 32;
/// Zeroes after the answer to EXPORT_NAME, unless NO_ZEROES was negotiated.
inline constexpr std::size_t export_name_padding_bytes = 124;

// --- Limits that the specification names ---------------------------------------------------------

/// The largest length of a string (export name, description, context name, error text) in bytes
/// ("Conventions").
inline constexpr std::size_t max_string_bytes = 4096;
/// The block sizes of an export that does not advertise any ("Size constraints").
inline constexpr std::uint32_t default_minimum_block = 1;
inline constexpr std::uint32_t default_preferred_block = 4096;
inline constexpr std::uint32_t default_maximum_payload = 32U << 20;
/// The IANA port of newstyle NBD.
inline constexpr std::uint16_t default_port = 10809;

// --- Handshake flags, server to client -----------------------------------------------------------

namespace handshake_flag {
inline constexpr std::uint16_t fixed_newstyle = 1U << 0;  // NBD_FLAG_FIXED_NEWSTYLE
inline constexpr std::uint16_t no_zeroes = 1U << 1;       // NBD_FLAG_NO_ZEROES
}  // namespace handshake_flag

// --- Client flags, client to server --------------------------------------------------------------

namespace client_flag {
inline constexpr std::uint32_t fixed_newstyle = 1U << 0;  // NBD_FLAG_C_FIXED_NEWSTYLE
inline constexpr std::uint32_t no_zeroes = 1U << 1;       // NBD_FLAG_C_NO_ZEROES
}  // namespace client_flag

// --- Transmission flags --------------------------------------------------------------------------

namespace transmission_flag {
inline constexpr std::uint16_t has_flags = 1U << 0;              // NBD_FLAG_HAS_FLAGS
inline constexpr std::uint16_t read_only = 1U << 1;              // NBD_FLAG_READ_ONLY
inline constexpr std::uint16_t send_flush = 1U << 2;             // NBD_FLAG_SEND_FLUSH
inline constexpr std::uint16_t send_fua = 1U << 3;               // NBD_FLAG_SEND_FUA
inline constexpr std::uint16_t rotational = 1U << 4;             // NBD_FLAG_ROTATIONAL
inline constexpr std::uint16_t send_trim = 1U << 5;              // NBD_FLAG_SEND_TRIM
inline constexpr std::uint16_t send_write_zeroes = 1U << 6;      // NBD_FLAG_SEND_WRITE_ZEROES
inline constexpr std::uint16_t send_df = 1U << 7;                // NBD_FLAG_SEND_DF
inline constexpr std::uint16_t can_multi_conn = 1U << 8;         // NBD_FLAG_CAN_MULTI_CONN
inline constexpr std::uint16_t send_resize = 1U << 9;            // NBD_FLAG_SEND_RESIZE
inline constexpr std::uint16_t send_cache = 1U << 10;            // NBD_FLAG_SEND_CACHE
inline constexpr std::uint16_t send_fast_zero = 1U << 11;        // NBD_FLAG_SEND_FAST_ZERO
inline constexpr std::uint16_t block_status_payload = 1U << 12;  // NBD_FLAG_BLOCK_STATUS_PAYLOAD
}  // namespace transmission_flag

// --- Options -------------------------------------------------------------------------------------

enum class option : std::uint32_t {
    export_name = 1,        // NBD_OPT_EXPORT_NAME
    abort = 2,              // NBD_OPT_ABORT
    list = 3,               // NBD_OPT_LIST
    peek_export = 4,        // NBD_OPT_PEEK_EXPORT (withdrawn)
    starttls = 5,           // NBD_OPT_STARTTLS
    info = 6,               // NBD_OPT_INFO
    go = 7,                 // NBD_OPT_GO
    structured_reply = 8,   // NBD_OPT_STRUCTURED_REPLY
    list_meta_context = 9,  // NBD_OPT_LIST_META_CONTEXT
    set_meta_context = 10,  // NBD_OPT_SET_META_CONTEXT
    extended_headers = 11,  // NBD_OPT_EXTENDED_HEADERS
};

// --- Option reply types --------------------------------------------------------------------------

enum class option_reply : std::uint32_t {
    ack = 1,           // NBD_REP_ACK
    server = 2,        // NBD_REP_SERVER
    info = 3,          // NBD_REP_INFO
    meta_context = 4,  // NBD_REP_META_CONTEXT

    err_unsup = 0x80000001,            // NBD_REP_ERR_UNSUP
    err_policy = 0x80000002,           // NBD_REP_ERR_POLICY
    err_invalid = 0x80000003,          // NBD_REP_ERR_INVALID
    err_platform = 0x80000004,         // NBD_REP_ERR_PLATFORM
    err_tls_reqd = 0x80000005,         // NBD_REP_ERR_TLS_REQD
    err_unknown = 0x80000006,          // NBD_REP_ERR_UNKNOWN
    err_shutdown = 0x80000007,         // NBD_REP_ERR_SHUTDOWN
    err_block_size_reqd = 0x80000008,  // NBD_REP_ERR_BLOCK_SIZE_REQD
    err_too_big = 0x80000009,          // NBD_REP_ERR_TOO_BIG
    err_ext_header_reqd = 0x8000000a,  // NBD_REP_ERR_EXT_HEADER_REQD
};

// --- Information types of INFO and GO ------------------------------------------------------------

enum class info : std::uint16_t {
    export_ = 0,      // NBD_INFO_EXPORT
    name = 1,         // NBD_INFO_NAME
    description = 2,  // NBD_INFO_DESCRIPTION
    block_size = 3,   // NBD_INFO_BLOCK_SIZE
};

// --- Commands ------------------------------------------------------------------------------------

enum class command : std::uint16_t {
    read = 0,          // NBD_CMD_READ
    write = 1,         // NBD_CMD_WRITE
    disc = 2,          // NBD_CMD_DISC
    flush = 3,         // NBD_CMD_FLUSH
    trim = 4,          // NBD_CMD_TRIM
    cache = 5,         // NBD_CMD_CACHE
    write_zeroes = 6,  // NBD_CMD_WRITE_ZEROES
    block_status = 7,  // NBD_CMD_BLOCK_STATUS
    resize = 8,        // NBD_CMD_RESIZE
};

// --- Command flags -------------------------------------------------------------------------------

namespace command_flag {
inline constexpr std::uint16_t fua = 1U << 0;          // NBD_CMD_FLAG_FUA
inline constexpr std::uint16_t no_hole = 1U << 1;      // NBD_CMD_FLAG_NO_HOLE
inline constexpr std::uint16_t df = 1U << 2;           // NBD_CMD_FLAG_DF
inline constexpr std::uint16_t req_one = 1U << 3;      // NBD_CMD_FLAG_REQ_ONE
inline constexpr std::uint16_t fast_zero = 1U << 4;    // NBD_CMD_FLAG_FAST_ZERO
inline constexpr std::uint16_t payload_len = 1U << 5;  // NBD_CMD_FLAG_PAYLOAD_LEN
}  // namespace command_flag

// --- Structured reply flags and chunk types ------------------------------------------------------

namespace reply_flag {
inline constexpr std::uint16_t done = 1U << 0;  // NBD_REPLY_FLAG_DONE
}  // namespace reply_flag

enum class chunk : std::uint16_t {
    none = 0,               // NBD_REPLY_TYPE_NONE
    offset_data = 1,        // NBD_REPLY_TYPE_OFFSET_DATA
    offset_hole = 2,        // NBD_REPLY_TYPE_OFFSET_HOLE
    block_status = 5,       // NBD_REPLY_TYPE_BLOCK_STATUS
    block_status_ext = 6,   // NBD_REPLY_TYPE_BLOCK_STATUS_EXT
    error = 0x8001,         // NBD_REPLY_TYPE_ERROR
    error_offset = 0x8002,  // NBD_REPLY_TYPE_ERROR_OFFSET
};

// --- Extent states of base:allocation ------------------------------------------------------------

namespace state_flag {
inline constexpr std::uint32_t hole = 1U << 0;  // NBD_STATE_HOLE
inline constexpr std::uint32_t zero = 1U << 1;  // NBD_STATE_ZERO
}  // namespace state_flag

// --- Error values --------------------------------------------------------------------------------

/// The values of the error field of a reply ("Error values"). `none` is success.
enum class error_value : std::uint32_t {
    none = 0,
    eperm = 1,        // NBD_EPERM
    eio = 5,          // NBD_EIO
    enomem = 12,      // NBD_ENOMEM
    einval = 22,      // NBD_EINVAL
    enospc = 28,      // NBD_ENOSPC
    eoverflow = 75,   // NBD_EOVERFLOW
    enotsup = 95,     // NBD_ENOTSUP
    eshutdown = 108,  // NBD_ESHUTDOWN
};

}  // namespace nbd::protocol
