# SPDX-License-Identifier: MIT
"""TLS for the client of wire.py: the certificates of a server, and a socket whose bytes are encrypted."""
import atexit
import shutil
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path

CERTIFICATES = Path(__file__).resolve().parents[2] / "examples/make-certificates.sh"


class Credentials:
    """New certificates: `server` is the folder for --tls-certificates, `context` verifies that server."""

    def __init__(self):
        folder = tempfile.mkdtemp(prefix="nbd-conformance-tls-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        subprocess.run(["sh", CERTIFICATES, folder], check=True, stdout=subprocess.DEVNULL)
        self.server = folder + "/server"
        self.context = ssl.create_default_context(cafile=folder + "/client/ca-cert.pem")


class Secured:
    """The methods of a socket that wire.py uses, inside TLS.

    ssl.SSLSocket is not used because it cannot end its own direction and still receive.
    """

    def __init__(self, plain, context):
        self.plain = plain
        self.incoming, self.outgoing, self.unsent = ssl.MemoryBIO(), ssl.MemoryBIO(), bytearray()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.lock = threading.Lock()        # one thread may send while another one receives
        self.step(self.tls.do_handshake, self.flush)

    def step(self, operation, first=lambda: None):
        """Carries out an operation of TLS, and receives what it needs."""
        while True:
            try:
                with self.lock:
                    done = operation()
                first()
                return done
            except ssl.SSLWantReadError:
                first()
            data = self.plain.recv(1 << 18)
            with self.lock:
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()

    def flush(self):
        """Sends all records that are complete. What a timeout leaves is sent first the next time."""
        with self.lock:
            self.unsent += self.outgoing.read()
        while self.unsent:
            del self.unsent[:self.plain.send(self.unsent)]

    def sendall(self, data):
        data = memoryview(data)
        for at in range(0, len(data), 1 << 16):
            with self.lock:
                self.tls.write(data[at:at + (1 << 16)])
            self.flush()

    def recv(self, limit):
        try:
            return self.step(lambda: self.tls.read(limit))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""      # with the end of TLS, or without

    def recv_into(self, buffer, count):
        data = self.recv(count)
        buffer[:len(data)] = data
        return len(data)

    def shutdown(self, how):
        """Ends TLS in this direction, and then TCP."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass            # it would wait for the other end
        self.flush()
        self.plain.shutdown(how)

    def settimeout(self, seconds):
        self.plain.settimeout(seconds)

    def setsockopt(self, *option):
        self.plain.setsockopt(*option)

    def fileno(self):
        return self.plain.fileno()

    def close(self):
        """Closes TCP without the end of TLS, as a killed client does."""
        self.plain.close()
