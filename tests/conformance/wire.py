# SPDX-License-Identifier: MIT
"""A raw NBD client: it builds and parses the bytes of doc/proto.md, and checks every reply against its rules.

It shares no code with the server under test. Everything that the server sends is checked where it is read (magics,
lengths, echoed numbers, error values, chunk rules), so a case states only what is special to it.
"""
import socket
import struct
import time

import tls

# Magics
NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY = 0x0003E889045565A9
REQUEST = 0x25609513
SIMPLE_REPLY = 0x67446698
CHUNK = 0x668E33EF
EXT_REQUEST = 0x21E41C71
EXT_REPLY = 0x6E8A278C

# Options
EXPORT_NAME, ABORT, LIST, PEEK_EXPORT, STARTTLS, INFO, GO, STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS = range(1, 12)

# Option reply types
ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_PLATFORM, ERR_TLS_REQD, ERR_UNKNOWN, ERR_SHUTDOWN, ERR_BLOCK_SIZE_REQD, \
    ERR_TOO_BIG, ERR_EXT_HEADER_REQD = range(0x80000001, 0x8000000B)
REP_NAMES = {1: "ACK", 2: "SERVER", 3: "INFO", 4: "META_CONTEXT", ERR_UNSUP: "ERR_UNSUP", ERR_POLICY: "ERR_POLICY",
             ERR_INVALID: "ERR_INVALID", ERR_PLATFORM: "ERR_PLATFORM", ERR_TLS_REQD: "ERR_TLS_REQD",
             ERR_UNKNOWN: "ERR_UNKNOWN", ERR_SHUTDOWN: "ERR_SHUTDOWN", ERR_BLOCK_SIZE_REQD: "ERR_BLOCK_SIZE_REQD",
             ERR_TOO_BIG: "ERR_TOO_BIG", ERR_EXT_HEADER_REQD: "ERR_EXT_HEADER_REQD"}

# Info types
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = range(4)

# Commands
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS, RESIZE = range(9)
COMMAND_NAMES = ["READ", "WRITE", "DISC", "FLUSH", "TRIM", "CACHE", "WRITE_ZEROES", "BLOCK_STATUS", "RESIZE"]

# Command flags
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = 1, 2, 4, 8, 16, 32

# Transmission flags
T_HAS_FLAGS, T_READ_ONLY, T_FLUSH, T_FUA, T_ROTATIONAL, T_TRIM, T_ZEROES, T_DF, T_MULTI_CONN, T_RESIZE, T_CACHE, \
    T_FAST_ZERO, T_STATUS_PAYLOAD = (1 << bit for bit in range(13))

# Chunk types
NONE, OFFSET_DATA, OFFSET_HOLE, BLOCK_STATUS, BLOCK_STATUS_EXT = 0, 1, 2, 5, 6
ERROR, ERROR_OFFSET = 0x8001, 0x8002
DONE = 1

# Errors
EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108
ERROR_NAMES = {0: "success", EPERM: "EPERM", EIO: "EIO", ENOMEM: "ENOMEM", EINVAL: "EINVAL", ENOSPC: "ENOSPC",
               EOVERFLOW: "EOVERFLOW", ENOTSUP: "ENOTSUP", ESHUTDOWN: "ESHUTDOWN"}

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
DEFAULT_MAX_PAYLOAD = 32 * MIB
MAX_STRING = 4096


class Failure(Exception):
    """A violated rule: `expected` by the rule, `got` from the server."""

    def __init__(self, expected, got):
        super().__init__("expected %s, got %s" % (expected, got))
        self.expected, self.got = expected, got


class Dropped(Failure):
    """The server closed the connection instead of answering."""


class Silent(Failure):
    """The server did not answer in time."""


def name_of(table, value):
    return table.get(value, hex(value))


def errors(values):
    return " or ".join(name_of(ERROR_NAMES, v) for v in sorted(values))


def short(data, limit=40):
    text = bytes(data[:limit]).hex()
    return text if len(data) <= limit else "%s.. (%d bytes)" % (text, len(data))


def pack_option(number, data=b"", length=None, magic=IHAVEOPT):
    return struct.pack(">QII", magic, number, len(data) if length is None else length) + data


def info_data(name=b"", infos=()):
    return struct.pack(">I", len(name)) + name + struct.pack(">H%dH" % len(infos), len(infos), *infos)


def meta_data(name=b"", queries=()):
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    return data + b"".join(struct.pack(">I", len(q)) + q for q in queries)


def pack_request(command, offset, length, flags=0, cookie=0, payload=b"", magic=REQUEST):
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length) + payload


def pack_ext_request(command, offset, length, flags=0, cookie=0, payload=b"", magic=EXT_REQUEST):
    return struct.pack(">IHHQQQ", magic, flags, command, cookie, offset, length) + payload


class PlainText(Exception):
    """Raised over TLS for a case that looks at what precedes TLS; the text says at what."""


class OptionReply:
    def __init__(self, option, kind, data):
        self.option, self.kind, self.data = option, kind, data

    @property
    def is_error(self):
        return bool(self.kind & 0x80000000)

    def __repr__(self):
        return "%s to option %d" % (name_of(REP_NAMES, self.kind), self.option)


class Chunk:
    def __init__(self, kind, flags, payload):
        self.kind, self.flags, self.payload = kind, flags, payload


class Result:
    """A request and its reply."""

    def __init__(self, command, offset, length, flags, cookie):
        self.command, self.offset, self.length, self.flags, self.cookie = command, offset, length, flags, cookie
        self.error, self.text, self.data = 0, "", b""
        self.style = None        # "simple", "structured" or "extended"
        self.chunks = []         # every chunk in order
        self.content = []        # (offset, length) of READ content
        self.holes = []          # (offset, length) sent as OFFSET_HOLE
        self.error_offsets = []
        self.contexts = {}       # context id -> [(length, status)]
        self.buffer = None


class Client:
    """One connection. `delivery` is "whole" (a message per write) or "bytes" (a byte per write).

    If the address is that of a server with TLS, start() includes STARTTLS, and all else is inside TLS.
    """

    tls_context = None       # for servers with TLS

    def __init__(self, address, delivery="whole", timeout=5.0, trace=None, receive_buffer=None):
        self.delivery, self.timeout = delivery, timeout
        self.trace = trace if trace is not None else []
        self.handshake_flags = None
        self.size = self.tflags = None
        self.block_sizes = None
        self.mode = "simple"
        self.max_chunk = DEFAULT_MAX_PAYLOAD
        self.contexts = {}       # context id -> name
        self.pending = {}        # cookie -> [Result]
        self.finished = []
        self.next_cookie = 0x0102030405060700
        self.send_failed = False
        self.plain = address[0] == "tls"        # before TLS, on a server that has it
        if address[0] == "unix":
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            target = address[1]
        else:
            family = socket.AF_INET6 if ":" in address[1] else socket.AF_INET
            self.socket = socket.socket(family, socket.SOCK_STREAM)
            target = (address[1], address[2])
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.socket.connect(target)
                break
            except BlockingIOError:         # a UNIX socket's backlog is full: wait for room in it
                if time.monotonic() < deadline:
                    time.sleep(0.002)
                    continue
                self.socket.close()
                raise Failure("a connection to %s within %g s" % (address[1], timeout), "a full backlog")
            except OSError as problem:
                self.socket.close()
                raise Failure("a connection to %s" % (address[1],), str(problem))
        if address[0] != "unix":
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- bytes ----------------------------------------------------------------------------------------------------

    def send(self, data, note=None):
        """Sends all of `data`. A closed connection is not an error here: the next read reports it."""
        self.require_tls("bytes before TLS")
        self.trace.append(note or short(data))
        try:
            if self.delivery == "bytes":
                head = min(len(data), 512)
                for i in range(head):
                    self.socket.sendall(data[i:i + 1])
                data = memoryview(data)[head:]
            if len(data):
                self.socket.sendall(data)
        except socket.timeout:
            raise Silent("the server to take %d bytes within %g s" % (len(data), self.timeout), "a full socket")
        except OSError:
            self.send_failed = True

    def recv_some(self, limit=65536, timeout=None):
        """Up to `limit` bytes, b"" at the end of the stream (a reset counts as the end)."""
        self.socket.settimeout(self.timeout if timeout is None else max(timeout, 0.001))
        try:
            return self.socket.recv(limit)
        except socket.timeout:
            raise Silent("bytes within %g s" % (self.timeout if timeout is None else timeout), "silence")
        except OSError:
            return b""
        finally:
            self.socket.settimeout(self.timeout)

    def recv(self, count, what="a reply", timeout=None):
        """Exactly `count` bytes before the time limit."""
        limit = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        data = bytearray(count)
        view, have = memoryview(data), 0
        while have < count:
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise socket.timeout
                self.socket.settimeout(left)
                got = self.socket.recv_into(view[have:], min(count - have, 1 << 20))
            except socket.timeout:
                raise Silent("%s (%d bytes) within %g s" % (what, count, limit), "%d bytes, then silence" % have)
            except OSError as problem:
                raise Dropped(what, "%s after %d of %d bytes" % (problem.strerror or problem, have, count))
            if not got:
                raise Dropped(what, "end of stream after %d of %d bytes" % (have, count))
            have += got
        self.socket.settimeout(self.timeout)
        return bytes(data)

    def shutdown_write(self):
        self.trace.append("FIN")
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def reset(self):
        """Closes with a RST (on a UNIX socket: a plain close, which resets when data is unread)."""
        self.trace.append("RST")
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.socket.close()

    def close(self):
        self.socket.close()

    # -- handshake ------------------------------------------------------------------------------------------------

    def greet(self):
        self.require_tls("the greeting")
        return self.receive_greeting()

    def receive_greeting(self):
        data = self.recv(18, "the greeting")
        magic, opt, flags = struct.unpack(">QQH", data)
        if magic != NBDMAGIC or opt != IHAVEOPT:
            raise Failure("NBDMAGIC and IHAVEOPT", data.hex())
        self.handshake_flags = flags
        return flags

    def send_flags(self, flags=3):
        self.send(struct.pack(">I", flags), "CF(%#x)" % flags)

    def start(self, flags=3):
        if self.plain:
            if flags not in (1, 3):
                raise PlainText("client flags %#x" % flags)
            self.receive_greeting()
            self.plain = False
            self.send_flags(flags)
            self.secure()
        else:
            self.greet()
            self.send_flags(flags)
        return self

    def secure(self):
        delivery, self.delivery = self.delivery, "whole"
        if self.final(STARTTLS) != ACK:
            raise Failure("ACK to STARTTLS", "an error")
        try:
            self.socket = tls.Secured(self.socket, self.tls_context)
        except OSError as problem:
            raise Failure("a TLS handshake", str(problem))
        self.delivery = delivery

    def require_tls(self, what):
        if self.plain:
            raise PlainText(what)

    def option(self, number, data=b"", length=None, magic=IHAVEOPT):
        message = pack_option(number, data, length, magic)
        self.send(message, "OPT(%#x, len %d) %s" % (number, len(data) if length is None else length, short(data)))

    def option_reply(self, option=None, timeout=None):
        head = self.recv(20, "an option reply", timeout)
        magic, echoed, kind, length = struct.unpack(">QIII", head)
        if magic != OPTION_REPLY:
            raise Failure("option reply magic", short(head))
        if option is not None and echoed != option:
            raise Failure("a reply that echoes option %#x" % option, "option %#x" % echoed)
        if length > 2 * MIB:
            raise Failure("an option reply of sane length", "%d bytes" % length)
        reply = OptionReply(echoed, kind, self.recv(length, "option reply data", timeout) if length else b"")
        check_option_reply(reply)
        return reply

    def replies(self, option=None, timeout=None):
        """All replies to one option: the last one is an ACK or an error."""
        got = []
        while True:
            reply = self.option_reply(option, timeout)
            got.append(reply)
            if reply.kind == ACK or reply.is_error:
                return got
            if len(got) > 20000:
                raise Failure("an ACK or an error at the end of the replies", "20000 replies")

    def negotiate(self, number, data=b""):
        self.option(number, data)
        return self.replies(number)

    def final(self, number, data=b""):
        """The kind of the final reply."""
        return self.negotiate(number, data)[-1].kind

    def info(self, name=b"", infos=(), option=INFO):
        got = self.negotiate(option, info_data(name, infos))
        return self.take_infos(got), got

    def take_infos(self, replies):
        infos = {}
        for reply in replies[:-1]:
            if reply.kind != REP_INFO:
                raise Failure("REP_INFO before the final reply", repr(reply))
            kind, = struct.unpack(">H", reply.data[:2])
            infos.setdefault(kind, []).append(reply.data[2:])
        if replies[-1].kind == ACK:
            if INFO_EXPORT not in infos:
                raise Failure("INFO_EXPORT before the ACK", "infos %s" % sorted(infos))
            self.size, self.tflags = struct.unpack(">QH", infos[INFO_EXPORT][0])
            check_tflags(self.tflags, self.mode)
            if INFO_BLOCK_SIZE in infos:
                self.block_sizes = struct.unpack(">III", infos[INFO_BLOCK_SIZE][0])
                check_block_sizes(self.block_sizes)
                if self.block_sizes[2] != 0xFFFFFFFF:
                    self.max_chunk = self.block_sizes[2]
        return infos

    def go(self, name=b"", infos=(INFO_BLOCK_SIZE,)):
        got = self.negotiate(GO, info_data(name, infos))
        if got[-1].kind != ACK:
            raise Failure("ACK to GO(%r)" % name, repr(got[-1]))
        self.take_infos(got)
        return self

    def structured(self):
        kind = self.final(STRUCTURED_REPLY)
        if kind == ACK:
            self.mode = "structured"
        return kind

    def extended(self):
        kind = self.final(EXTENDED_HEADERS)
        if kind == ACK:
            self.mode = "extended"
        return kind

    def set_meta(self, queries, name=b"", option=SET_META):
        """(final reply, {id: name})."""
        got = self.negotiate(option, meta_data(name, queries))
        found = {}
        for reply in got[:-1]:
            if reply.kind != REP_META:
                raise Failure("REP_META_CONTEXT before the final reply", repr(reply))
            number, = struct.unpack(">I", reply.data[:4])
            if option == SET_META and number in found:
                raise Failure("unique context ids", "id %d twice" % number)
            text = reply.data[4:]
            check_context_name(text, option)
            if option == SET_META:
                found[number] = text
            else:
                found[len(found)] = text
        if option == SET_META:
            self.contexts = found if got[-1].kind == ACK else {}
        return got[-1], found

    # -- transmission ---------------------------------------------------------------------------------------------

    def cookie(self):
        self.next_cookie += 1
        return self.next_cookie

    def request(self, command, offset=0, length=0, flags=0, payload=b"", cookie=None, expect=True, effect=None):
        """Sends a request (in the negotiated header style) and returns its Result, not yet filled.

        `effect` is the export range that the reply is about when `length` counts a payload (extended BLOCK_STATUS)."""
        cookie = self.cookie() if cookie is None else cookie
        if self.mode == "extended":
            message = pack_ext_request(command, offset, length, flags, cookie, payload)
        else:
            message = pack_request(command, offset, length, flags, cookie, payload)
        result = Result(command, offset, length if effect is None else effect, flags, cookie)
        if expect:
            self.pending.setdefault(cookie, []).append(result)
        label = COMMAND_NAMES[command] if command < len(COMMAND_NAMES) else "command %#x" % command
        self.send(message, "%s(off %#x, len %#x, flags %#x, cookie %#x%s)"
                  % (label, offset, length, flags, cookie, ", %d bytes" % len(payload) if payload else ""))
        return result

    def wait(self, result, timeout=None):
        while result not in self.finished:
            self.finished.append(self.next_result(timeout))
        self.finished.remove(result)
        return result

    def wait_all(self, results, timeout=None):
        for result in results:
            self.wait(result, timeout)
        return results

    def do(self, command, offset=0, length=0, flags=0, payload=b"", timeout=None, **more):
        """One request, answered: its Result."""
        return self.wait(self.request(command, offset, length, flags, payload, **more), timeout)

    def read(self, offset, length, flags=0, timeout=None):
        result = self.do(READ, offset, length, flags, timeout=timeout)
        if result.error:
            raise Failure("%d bytes read at %#x" % (length, offset), name_of(ERROR_NAMES, result.error))
        return result.data

    def write(self, offset, data, flags=0, timeout=None):
        if self.mode == "extended":
            flags |= PAYLOAD_LEN
        return self.do(WRITE, offset, len(data), flags, data, timeout).error

    def next_result(self, timeout=None):
        while True:
            result = self.next_message(timeout)
            if result is not None:
                return result

    def next_message(self, timeout=None):
        """Reads one message; returns the Result that it completed, if it did."""
        magic, = struct.unpack(">I", self.recv(4, "a reply", timeout))
        if magic == SIMPLE_REPLY:
            return self.take_simple(timeout)
        if magic == CHUNK:
            if self.mode != "structured":
                raise Failure("no structured reply in %s mode" % self.mode, "one")
            flags, kind, cookie, length = struct.unpack(">HHQI", self.recv(16, "a chunk header", timeout))
            return self.take_chunk(flags, kind, cookie, None, length, timeout)
        if magic == EXT_REPLY:
            if self.mode != "extended":
                raise Failure("no extended reply in %s mode" % self.mode, "one")
            flags, kind, cookie, offset, length = struct.unpack(">HHQQQ", self.recv(28, "an extended header", timeout))
            return self.take_chunk(flags, kind, cookie, offset, length, timeout)
        raise Failure("a reply magic", "%#010x" % magic)

    def expecting(self, cookie):
        if not self.pending.get(cookie):
            raise Failure("the cookie of an open request", "cookie %#x" % cookie)
        return self.pending[cookie][0]

    def complete(self, result):
        self.pending[result.cookie].remove(result)
        if not self.pending[result.cookie]:
            del self.pending[result.cookie]
        return result

    def take_simple(self, timeout):
        error, cookie = struct.unpack(">IQ", self.recv(12, "a simple reply", timeout))
        result = self.expecting(cookie)
        if self.mode == "extended":
            raise Failure("only extended replies once negotiated", "a simple reply")
        if self.mode == "structured" and result.command in (READ, STATUS) and not (result.command == STATUS and error):
            raise Failure("a structured reply to %s" % COMMAND_NAMES[result.command], "a simple reply")
        if error not in ERROR_NAMES:
            raise Failure("an error value of the specification", str(error))
        result.style, result.error = "simple", error
        if result.command == READ and not error and result.length:
            result.data = self.recv(result.length, "read data", timeout)
        return self.complete(result)

    def take_chunk(self, flags, kind, cookie, offset, length, timeout):
        result = self.expecting(cookie)
        if flags & ~DONE:
            raise Failure("no reply flag but DONE", "flags %#x" % flags)
        if offset is not None and offset != result.offset:
            raise Failure("the request's offset %#x in the extended reply" % result.offset, "%#x" % offset)
        if length > self.max_chunk + 8:
            raise Failure("chunks of at most %d bytes" % self.max_chunk, "%d bytes" % length)
        payload = self.recv(length, "a chunk's payload", timeout) if length else b""
        result.style = self.mode
        result.chunks.append(Chunk(kind, flags, payload))
        if kind == NONE:
            if length or not flags & DONE:
                raise Failure("NONE to be empty and final", "length %d, flags %#x" % (length, flags))
        elif kind in (OFFSET_DATA, OFFSET_HOLE):
            self.take_content(result, kind, payload)
        elif kind in (BLOCK_STATUS, BLOCK_STATUS_EXT):
            self.take_status(result, kind, payload)
        elif kind in (ERROR, ERROR_OFFSET):
            take_error(result, kind, payload)
        else:
            raise Failure("a chunk type of the specification", hex(kind))
        if not flags & DONE:
            return None
        self.check_complete(result)
        return self.complete(result)

    def take_content(self, result, kind, payload):
        if result.command != READ:
            raise Failure("content chunks for READ only", "one for command %d" % result.command)
        if kind == OFFSET_DATA:
            if len(payload) < 9:
                raise Failure("OFFSET_DATA of 9 bytes or more", "%d" % len(payload))
            offset, = struct.unpack(">Q", payload[:8])
            data, length = payload[8:], len(payload) - 8
        else:
            if len(payload) != 12:
                raise Failure("OFFSET_HOLE of 12 bytes", "%d" % len(payload))
            offset, length = struct.unpack(">QI", payload)
            if not length:
                raise Failure("a hole of some size", "a hole of 0 bytes")
            data = None
            result.holes.append((offset, length))
        if offset < result.offset or offset + length > result.offset + result.length:
            raise Failure("content inside %#x+%#x" % (result.offset, result.length), "%#x+%#x" % (offset, length))
        for other, size in result.content:
            if offset < other + size and other < offset + length:
                raise Failure("content chunks that do not overlap", "%#x+%#x and %#x+%#x" % (other, size, offset, length))
        if any(offset <= place < offset + length for place in result.error_offsets):
            raise Failure("content before the error at its offset", "content after it")
        result.content.append((offset, length))
        if result.flags & DF and len(result.content) > 1:
            raise Failure("one content chunk with DF", "%d" % len(result.content))
        if result.flags & DF and kind == OFFSET_HOLE:
            raise Failure("explicit zeroes with DF", "a hole")
        if result.buffer is None:
            result.buffer = bytearray(result.length)
        if data is not None:
            result.buffer[offset - result.offset:offset - result.offset + length] = data

    def take_status(self, result, kind, payload):
        if result.command != STATUS:
            raise Failure("status chunks for BLOCK_STATUS only", "one for command %d" % result.command)
        wide = self.mode == "extended"
        if kind != (BLOCK_STATUS_EXT if wide else BLOCK_STATUS):
            raise Failure("the status chunk of %s mode" % self.mode, "type %d" % kind)
        unit, head = (16, 8) if wide else (8, 4)
        if len(payload) < head + unit or (len(payload) - head) % unit:
            raise Failure("%d + %dn bytes of status, n >= 1" % (head, unit), "%d" % len(payload))
        count = (len(payload) - head) // unit
        context, = struct.unpack(">I", payload[:4])
        if wide and struct.unpack(">I", payload[4:8])[0] != count:
            raise Failure("descriptor count %d" % count, "%d" % struct.unpack(">I", payload[4:8]))
        if context not in self.contexts:
            raise Failure("a selected context's id", "%d" % context)
        if context in result.contexts:
            raise Failure("one status chunk a context", "two for id %d" % context)
        if count > 1 << 20:
            raise Failure("at most 2^20 extents", "%d" % count)
        numbers = struct.unpack(">%d%s" % (2 * count, "Q" if wide else "I"), payload[head:])
        extents = list(zip(numbers[::2], numbers[1::2]))
        if any(length == 0 for length, _ in extents):
            raise Failure("extents of non-zero length", "one of length 0")
        if sum(length for length, _ in extents[:-1]) >= result.length:
            raise Failure("all extents but the last to end before the requested length", "more")
        if result.flags & REQ_ONE and (count != 1 or extents[0][0] > result.length):
            raise Failure("one extent of at most %d bytes with REQ_ONE" % result.length, "%r" % extents[:3])
        if self.size is not None and result.offset + sum(length for length, _ in extents) > self.size:
            raise Failure("extents inside the export", "%d bytes past its end"
                          % (result.offset + sum(length for length, _ in extents) - self.size))
        if self.contexts[context] == b"base:allocation" and any(status & ~3 for _, status in extents):
            raise Failure("only HOLE and ZERO in base:allocation", "%r" % extents[:3])
        result.contexts[context] = extents

    def check_complete(self, result):
        if result.error:
            return
        if result.command == READ:
            if sum(length for _, length in result.content) != result.length:
                raise Failure("content that covers all %d bytes" % result.length,
                              "%d" % sum(length for _, length in result.content))
            result.data = bytes(result.buffer or b"")
        if result.command == STATUS and not result.contexts:
            raise Failure("a status chunk or an error for BLOCK_STATUS", "neither")


def take_error(result, kind, payload):
    least = 6 if kind == ERROR else 14
    if len(payload) < least:
        raise Failure("an error chunk of %d bytes or more" % least, "%d" % len(payload))
    error, size = struct.unpack(">IH", payload[:6])
    if error == 0 or error not in ERROR_NAMES:
        raise Failure("a non-zero error value of the specification", "%d" % error)
    if size > MAX_STRING or size + least > len(payload):
        raise Failure("a message inside its chunk", "message length %d in %d bytes" % (size, len(payload)))
    if kind == ERROR and size + 6 != len(payload) or kind == ERROR_OFFSET and size + 14 != len(payload):
        raise Failure("nothing behind the error chunk's fields", "%d bytes" % (len(payload) - size - least))
    result.text = decode(payload[6:6 + size], "an error message")
    if kind == ERROR_OFFSET:
        place, = struct.unpack(">Q", payload[6 + size:])
        if not result.offset <= place < result.offset + max(result.length, 1):
            raise Failure("an error offset inside the request", "%#x" % place)
        result.error_offsets.append(place)
    result.error = result.error or error


def decode(data, what):
    if len(data) > MAX_STRING:
        raise Failure("%s of at most 4096 bytes" % what, "%d" % len(data))
    if b"\0" in data:
        raise Failure("%s without NUL" % what, short(data))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Failure("%s in UTF-8" % what, short(data))


def check_option_reply(reply):
    """The rules of points 22, 26, 27 and 45, which hold for every option reply."""
    if reply.is_error:
        if reply.kind not in REP_NAMES:
            raise Failure("an error reply type of the specification", hex(reply.kind))
        decode(reply.data, "an error text")
    elif reply.kind == ACK:
        if reply.data:
            raise Failure("an ACK without data", "%d bytes" % len(reply.data))
    elif reply.kind == REP_SERVER:
        if len(reply.data) < 4 or struct.unpack(">I", reply.data[:4])[0] > len(reply.data) - 4:
            raise Failure("a name inside REP_SERVER", short(reply.data))
        size, = struct.unpack(">I", reply.data[:4])
        decode(reply.data[4:4 + size], "an export name")
        decode(reply.data[4 + size:], "a description")
    elif reply.kind == REP_INFO:
        if len(reply.data) < 2:
            raise Failure("an info type in REP_INFO", "%d bytes" % len(reply.data))
        kind, = struct.unpack(">H", reply.data[:2])
        want = {INFO_EXPORT: 12, INFO_BLOCK_SIZE: 14}.get(kind)
        if want and len(reply.data) != want:
            raise Failure("INFO %d of %d bytes" % (kind, want), "%d" % len(reply.data))
        if kind in (INFO_NAME, INFO_DESCRIPTION):
            decode(reply.data[2:], "INFO %d" % kind)
    elif reply.kind == REP_META:
        if len(reply.data) < 5:
            raise Failure("an id and a name in REP_META_CONTEXT", short(reply.data))
    else:
        raise Failure("an option reply type of the specification", hex(reply.kind))


def check_tflags(flags, mode="simple"):
    if not flags & T_HAS_FLAGS:
        raise Failure("HAS_FLAGS", "%#06x" % flags)
    if flags & T_FAST_ZERO and not flags & T_ZEROES:
        raise Failure("SEND_FAST_ZERO only with SEND_WRITE_ZEROES", "%#06x" % flags)
    if flags & T_DF and mode == "simple":
        raise Failure("SEND_DF clear without structured replies", "%#06x" % flags)
    if flags & T_STATUS_PAYLOAD and mode != "extended":
        raise Failure("BLOCK_STATUS_PAYLOAD clear without extended headers", "%#06x" % flags)
    if flags & ~0x1FFF:
        raise Failure("only defined transmission flags", "%#06x" % flags)


def check_block_sizes(sizes):
    least, preferred, most = sizes

    def power(n):
        return n and not n & (n - 1)
    if not power(least) or least > 65536:
        raise Failure("a minimum block size that is a power of 2 of at most 65536", str(least))
    if not power(preferred) or preferred < max(least, 512):
        raise Failure("a preferred block size that is a power of 2, >= 512 and >= minimum", str(preferred))
    if most < preferred:
        raise Failure("a maximum payload >= preferred", str(most))


def check_context_name(text, option):
    decoded = decode(text, "a context name")
    space, colon, leaf = decoded.partition(":")
    if not colon or not space or any(not ch.isprintable() or ch.isspace() for ch in space):
        raise Failure("a context name namespace:leaf", repr(decoded))
    if option == SET_META and not leaf:
        raise Failure("no wildcard selected by SET_META_CONTEXT", repr(decoded))
