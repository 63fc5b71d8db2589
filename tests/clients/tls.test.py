# SPDX-License-Identifier: MIT
"""TLS: libnbd's programs and qemu-img with X.509 and pre-shared keys, and what is refused."""
import pathlib
import resource
import threading

from support import *

NBDINFO = require_tool("nbdinfo", "libnbd-bin")
NBDCOPY = require_tool("nbdcopy", "libnbd-bin")
OPENSSL = require_tool("openssl", "openssl")
PROGRAM = require_program("NBD_SERVE")
SCRIPT = require_program("MAKE_CERTIFICATES")


@contextlib.contextmanager
def certificates(host="localhost"):
    """What make-certificates.sh makes: a folder with server/ and client/."""
    with directory() as where:
        run("sh", SCRIPT, f"{where}/pki", host)
        yield pathlib.Path(where) / "pki"


def sign(pki, which, subject, days, names=""):
    """Replaces the certificate of the server or the client by one that ends after `days`, which may be negative."""
    folder = pki / which
    (pki / "extensions").write_text(f"basicConstraints=CA:FALSE\n{names}\n")
    run(OPENSSL, "req", "-new", "-key", folder / f"{which}-key.pem", "-subj", subject, "-out", pki / "request.pem")
    # openssl x509 takes no negative number of days, so that the authority signs with a date of the past instead.
    database = pki / "index.txt"
    database.write_text("")
    (pki / "ca.conf").write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={database}\nnew_certs_dir={pki}\nrand_serial=yes\n"
        "default_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n")
    day = 24 * 3600
    stamp = lambda seconds: time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + seconds))
    run(OPENSSL, "ca", "-batch", "-notext", "-config", pki / "ca.conf", "-cert", folder / "ca-cert.pem",
        "-keyfile", pki / "ca-key.pem", "-in", pki / "request.pem", "-out", folder / f"{which}-cert.pem",
        "-extfile", pki / "extensions", "-startdate", stamp(-10 * day), "-enddate", stamp(days * day))


def x509(server, folder):
    return f"{at_localhost(server.uri)}{'&' if '?' in server.uri else '?'}tls-certificates={folder}"


def psk(server, file, user):
    uri = at_localhost(server.uri).replace("://", f"://{user}@", 1)
    return f"{uri}{'&' if '?' in uri else '?'}tls-psk-file={file}"


def at_localhost(uri):
    return uri.replace("127.0.0.1", "localhost")


def refused(uri):
    done = run(NBDINFO, uri, status=None)
    assert done.returncode == 1, f"{uri} is not refused: {done.stdout}"


@for_each(GRID)
def test_certificates(policy, transport):
    with certificates() as pki, serve("mem:64M", "--tls", "require", "--tls-certificates", pki / "server",
                                      transport=transport, policy=policy) as server:
        assert server.uri.startswith("nbds+unix:" if transport == "unix" else "nbds:"), server.uri
        # A UNIX socket has no name that a client could compare with the certificate's.
        unverified = "&tls-verify-peer=false" if transport == "unix" else ""
        said = run(NBDINFO, x509(server, pki / "client") + unverified).stdout
        assert "newstyle-fixed with TLS" in said, said
        assert f"export-size: {64 * M}" in said, said
        refused(server.uri.replace("nbds", "nbd", 1))


@for_each(POLICIES)
def test_copy(policy):
    size = scaled(48, 4) * M
    with certificates() as pki, serve(f"mem:{size}", "--tls", "require", "--tls-certificates", pki / "server",
                                      "--tls-verify-peer", transport="tcp", policy=policy) as server:
        there, back = pki / "there", pki / "back"
        there.write_bytes(os.urandom(size))
        uri = x509(server, pki / "client")
        run(NBDCOPY, there, uri)
        run(NBDCOPY, uri, back)
        assert there.read_bytes() == back.read_bytes()


@for_each([(device, policy) for device in ("file", "uring") for policy in POLICIES])
def test_a_file(device, policy):
    """Files go out by sendfile without TLS."""
    if device == "uring" and why_no_uring():
        raise Skip(why_no_uring())
    size = scaled(16, 2) * M
    with certificates() as pki:
        disk, back = pki / "disk", pki / "back"
        disk.write_bytes(os.urandom(size))
        with serve(f"{device}:{disk}", "--tls", "require", "--tls-certificates", pki / "server", transport="tcp",
                   policy=policy) as server:
            run(NBDCOPY, x509(server, pki / "client"), back)
            assert disk.read_bytes() == back.read_bytes()


@for_each(POLICIES)
def test_verified_clients(policy):
    with certificates() as pki, certificates() as others, \
            serve("mem:1M", "--tls", "require", "--tls-certificates", pki / "server", "--tls-verify-peer",
                  "--verbose", transport="tcp", policy=policy) as server:
        run(NBDINFO, x509(server, pki / "client"))
        # An authority that the server does not know, with our authority so that the server is accepted.
        (others / "client" / "ca-cert.pem").write_bytes((pki / "client" / "ca-cert.pem").read_bytes())
        refused(x509(server, others / "client"))
        for name in ("client-cert.pem", "client-key.pem"):  # none
            (pki / "client" / name).unlink()
        refused(x509(server, pki / "client"))
        told = server.stderr()
        assert 'certificate of "CN=client"' in told, told
        assert "peer did not return a certificate" in told, told
        assert "the certificate of the client was refused" in told, told


@for_each(POLICIES)
def test_an_expired_client(policy):
    with certificates() as pki, serve("mem:1M", "--tls", "require", "--tls-certificates", pki / "server",
                                      "--tls-verify-peer", "--verbose", transport="tcp", policy=policy) as server:
        sign(pki, "client", "/CN=client", -1)
        refused(x509(server, pki / "client"))
        wait_until(lambda: "certificate has expired" in server.stderr(), "the server says why")


def test_servers_that_clients_refuse():
    with certificates() as pki, certificates() as others:
        with serve("mem:1M", "--tls", "require", "--tls-certificates", pki / "server", transport="tcp") as server:
            run(NBDINFO, x509(server, pki / "client"))
            refused(x509(server, others / "client"))  # another authority
    with certificates("elsewhere.example") as pki:  # another name
        with serve("mem:1M", "--tls", "require", "--tls-certificates", pki / "server", transport="tcp") as server:
            refused(x509(server, pki / "client"))
    for days, judge in ((1, lambda uri: run(NBDINFO, uri)), (-1, refused)):  # the second has expired
        with certificates() as pki:
            sign(pki, "server", "/CN=localhost", days, "subjectAltName=DNS:localhost")
            with serve("mem:1M", "--tls", "require", "--tls-certificates", pki / "server", transport="tcp") as server:
                judge(x509(server, pki / "client"))


@for_each(GRID)
def test_pre_shared_keys(policy, transport):
    with certificates() as pki, serve("mem:8M", "--tls", "require", "--tls-psk", pki / "server" / "keys.psk",
                                      "--verbose", transport=transport, policy=policy) as server:
        keys = pki / "client" / "keys.psk"
        run(NBDINFO, psk(server, keys, "client"))
        run(NBDCOPY, psk(server, keys, "qemu"), "null:")
        refused(psk(server, keys, "mallory"))
        wrong = pki / "wrong.psk"
        wrong.write_text("client:" + 64 * "0" + "\n")
        refused(psk(server, wrong, "client"))
        wait_until(lambda: 'identity "client"' in server.stderr(), "the server knows the client")


STDIO = ("a socket", "two pipes")


@for_each([(policy, by, through) for policy in POLICIES for by in ("certificate", "key") for through in STDIO])
def test_stdio(policy, by, through):
    try:
        import nbd
    except ImportError:
        raise Skip("Python has no module nbd (Debian package python3-libnbd)") from None
    with certificates() as pki:
        def handle(user="client"):
            made = nbd.NBD()
            made.set_tls(nbd.TLS_REQUIRE)
            if by == "certificate":
                made.set_tls_certificates(str(pki / "client"))
            else:
                made.set_tls_username(user)
                made.set_tls_psk_file(str(pki / "client" / "keys.psk"))
            return made

        credentials = (["--tls-certificates", f"{pki}/server", "--tls-verify-peer"] if by == "certificate"
                       else ["--tls-psk", f"{pki}/server/keys.psk"])
        command = [PROGRAM, "mem:3M", "--stdio", "--policy", policy, "--tls", "require", *credentials]
        if through == "two pipes":
            command = ["sh", "-c", f"cat | {' '.join(command)} | cat"]
        client = handle()
        client.connect_command(command)
        assert client.get_tls_negotiated()
        data = os.urandom(3 * M)
        client.pwrite(data, 0)
        assert client.pread(3 * M, 0) == data
        client.shutdown()

        others = [nbd.NBD()]  # without TLS
        if by == "certificate":
            for name in ("client-cert.pem", "client-key.pem"):
                (pki / "client" / name).unlink()
            others.append(handle())
        else:
            others.append(handle("mallory"))
        for other in others:
            try:
                other.connect_command(command)
                other.pread(512, 0)  # with TLS 1.3, a client without a certificate learns of that here
                raise AssertionError("the client is not refused")
            except nbd.Error:
                pass


@for_each(POLICIES)
def test_stdio_as_inetd_starts_it(policy):
    """A process for each connection, whose socket is stdin and stdout."""
    with certificates() as pki, socket.socket(socket.AF_UNIX) as listening:
        data = os.urandom(scaled(16, 2) * M)
        disk, back = pki / "disk", pki / "back"
        disk.write_bytes(data)
        listening.bind(str(pki / "socket"))
        listening.listen()
        processes = []

        def serve_all():
            while True:
                try:
                    accepted = listening.accept()[0]
                except OSError:  # shut down
                    return
                with accepted:
                    processes.append(subprocess.Popen(
                        [PROGRAM, f"file:{disk}", "--lock", "shared", "--stdio", "--policy", policy, "--tls", "on",
                         "--tls-certificates", pki / "server"],
                        stdin=accepted, stdout=accepted))

        inetd = threading.Thread(target=serve_all)
        inetd.start()
        try:
            with_tls = f"nbds+unix:///?socket={pki}/socket&tls-certificates={pki}/client&tls-verify-peer=false"
            assert "newstyle-fixed with TLS" in run(NBDINFO, with_tls).stdout
            assert "without TLS" in run(NBDINFO, f"nbd+unix:///?socket={pki}/socket").stdout
            run(NBDCOPY, with_tls, back)
            assert back.read_bytes() == data
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            inetd.join()
        for process in processes:
            assert process.wait(PATIENCE) == 0


@for_each(POLICIES)
def test_both(policy):
    """A client with a key, and one with a certificate; and TLS that is not required."""
    with certificates() as pki, serve("mem:1M", "--tls", "on", "--tls-certificates", pki / "server", "--tls-psk",
                                      pki / "server" / "keys.psk", "--tls-verify-peer", transport="tcp",
                                      policy=policy) as server:
        run(NBDINFO, psk(server, pki / "client" / "keys.psk", "client"))
        run(NBDINFO, x509(server, pki / "client"))
        assert "without TLS" in run(NBDINFO, server.uri.replace("nbds:", "nbd:")).stdout


def test_who_is_allowed():
    with certificates() as pki:
        keys = pki / "server" / "keys.psk"
        for by_certificate, by_key, *options in (
                (True, True, "--allow", "subject:CN=client", "--allow", "psk:client"),
                (True, False, "--allow", "subject:CN=client"),
                (True, False, "--deny", "psk:client"),
                (False, True, "--allow", "psk:client"),
                (False, False, "--allow", "subject:CN=clien,O=x", "--allow", "psk:clien"),
                (False, False, "--allow", "127.0.0.0/8,subject:CN=client", "--deny", "127.0.0.1"),
        ):
            with serve("mem:1M", "--tls", "require", "--tls-certificates", pki / "server", "--tls-psk", keys,
                       "--tls-verify-peer", *options, transport="tcp") as server:
                for allowed, uri in ((by_certificate, x509(server, pki / "client")),
                                     (by_key, psk(server, pki / "client" / "keys.psk", "client"))):
                    if allowed:
                        run(NBDINFO, uri)
                    else:
                        refused(uri)
        for allowed, denied in ((False, "subject:CN=client"), (True, "subject:CN=clien")):
            with serve("mem:1M", "--tls", "require", "--tls-certificates", pki / "server", "--tls-verify-peer",
                       "--deny", denied, transport="tcp") as server:
                (run if allowed else lambda _, uri: refused(uri))(NBDINFO, x509(server, pki / "client"))


@for_each(POLICIES)
def test_qemu_img(policy):
    qemu_img = find_tool("qemu-img")
    if not qemu_img:
        raise Skip("qemu-img is not installed (Debian package qemu-utils)")

    def info(server, *credentials, status=0):
        host, port = server.address
        return run(qemu_img, "info", "--object", ",".join(map(str, credentials)), "--image-opts",
                   f"driver=nbd,server.type=inet,server.host=localhost,server.port={port},tls-creds=tls", status=status)

    with certificates() as pki, certificates() as others:
        def x509_of(folder):
            return "tls-creds-x509", "id=tls", f"dir={folder}", "endpoint=client"

        def psk_of(folder, user):
            return "tls-creds-psk", "id=tls", f"dir={folder}", "endpoint=client", f"username={user}"

        with serve("mem:64M", "--tls", "require", "--tls-certificates", pki / "server", "--tls-verify-peer",
                   transport="tcp", policy=policy) as server:
            assert "64 MiB" in info(server, *x509_of(pki / "client")).stdout
            info(server, *x509_of(others / "client"), status=1)
        with serve("mem:64M", "--tls", "require", "--tls-psk", pki / "server" / "keys.psk", transport="tcp",
                   policy=policy) as server:
            assert "64 MiB" in info(server, *psk_of(pki / "client", "qemu")).stdout
            info(server, *psk_of(others / "client", "qemu"), status=1)


@for_each(POLICIES)
def test_credentials_are_loaded_again(policy):
    with certificates() as pki, certificates() as others, \
            serve("mem:1M", "--tls", "require", "--tls-certificates", pki / "server", transport="tcp",
                  policy=policy) as server:
        refused(x509(server, others / "client"))
        for name in ("server-cert.pem", "server-key.pem"):
            (pki / "server" / name).write_bytes((others / "server" / name).read_bytes())
        server.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: run(NBDINFO, x509(server, others / "client"), status=None).returncode == 0,
                   "the new certificate is in use")
        (pki / "server" / "server-key.pem").chmod(0o644)
        server.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "server-key.pem: it is open to others (mode 0644)" in server.stderr(),
                   "the server says what is wrong")
        run(NBDINFO, x509(server, others / "client"))


def test_credentials_are_loaded_again_without_memory():
    if SMALL:
        raise Skip("a sanitizer ends a program that has no memory")
    # So that glibc asks the system for the memory.
    tunables = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536:glibc.malloc.arena_max=1"}
    with certificates() as pki, started([PROGRAM, "mem:1M", "--tcp", "127.0.0.1:0", "--tls", "require",
                                         "--tls-certificates", str(pki / "server")], env=tunables) as server:
        run(NBDINFO, x509(server, pki / "client"))
        limits = resource.prlimit(server.pid, resource.RLIMIT_AS)
        resource.prlimit(server.pid, resource.RLIMIT_AS, (M, limits[1]))
        server.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: server.stderr() or server.process.poll() is not None, "the server says what is wrong")
        assert server.stderr() == ("nbd-serve: there is no memory to load the credentials again; the earlier ones "
                                   "stay in use\n"), server.stderr()
        resource.prlimit(server.pid, resource.RLIMIT_AS, limits)
        run(NBDINFO, x509(server, pki / "client"))


def test_arguments():
    def told(*arguments, status):
        done = run(PROGRAM, "mem:1M", "--tcp", "127.0.0.1:0", *arguments, status=status, stdin=subprocess.DEVNULL)
        assert done.stderr.count("\n") == 1 and done.stdout == "", done.stderr
        return done.stderr

    with certificates() as pki:
        server = pki / "server"
        assert "--tls-certificates DIR" in told("--tls", "on", status=2)
        assert "--tls" in told("--tls-certificates", server, status=2)
        assert "--tls-verify-peer" in told("--tls", "on", "--tls-psk", server / "keys.psk", "--tls-verify-peer", status=2)
        assert "/nowhere/server-cert.pem: No such file" in told("--tls", "on", "--tls-certificates", "/nowhere", status=1)
        keys = "--tls-psk", server / "keys.psk"
        assert "--deny psk: expected together with --tls require" in told("--tls", "on", *keys, "--deny", "psk:a",
                                                                          status=2)
        assert "--tls-verify-peer" in told("--tls", "require", *keys, "--allow", "subject:CN=a", status=2)
        assert '"ab"' in told("--tls", "require", "--tls-certificates", server, "--tls-verify-peer", "--allow",
                              "fingerprint:ab", status=2)
        assert "--deny subject: expected without --tls-psk" in told(
            "--tls", "require", "--tls-certificates", server, "--tls-verify-peer", *keys, "--deny", "subject:CN=a", status=2)
        assert "--deny psk: expected together with --tls-verify-peer" in told(
            "--tls", "require", "--tls-certificates", server, *keys, "--deny", "psk:a", status=2)
        assert "--deny fingerprint: expected without --tls-psk" in told(
            "--tls", "require", "--tls-certificates", server, "--tls-verify-peer", *keys, "--deny",
            "fingerprint:" + 64 * "0", status=2)
        (server / "keys.psk").chmod(0o644)
        assert "expected 0600" in told("--tls", "on", "--tls-psk", server / "keys.psk", status=1)
        assert "make-certificates.sh" in run("sh", SCRIPT, pki, status=1).stderr


def test_the_example():
    program = os.environ.get("TLS_EXAMPLE")
    if not program:
        raise Skip("the example was not built")
    with certificates() as pki:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with directory() as where, \
                started([program, str(pki / "server"), f"{where}/disk.sock", str(port)]) as server:
            server.expected_status = -signal.SIGTERM
            with_certificate = f"?tls-certificates={pki / 'client'}"
            for uri, more, exports in (
                    (f"nbd://localhost:{port}", "", {"public"}),
                    (f"nbds://localhost:{port}", with_certificate, {"public", "private", "remote"}),
                    ("nbd+unix://", f"?socket={where}/disk.sock", {"public", "private"})):
                listed = run(NBDINFO, "--list", f"{uri}/{more}").stdout
                for name in ("public", "private", "remote"):
                    assert (f'export="{name}"' in listed) == (name in exports), f"{uri}: {name}: {listed}"
                    if name in exports:
                        run(NBDINFO, f"{uri}/{name}{more}")
                    else:
                        refused(f"{uri}/{name}{more}")
            run(NBDINFO, "--is", "read-only", f"nbd://localhost:{port}/public")
            assert run(NBDINFO, "--is", "read-only", f"nbd+unix:///public?socket={where}/disk.sock",
                       status=None).returncode == 2


run_cases(globals())
