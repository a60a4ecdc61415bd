"""Servers that misbehave on purpose, for the tests of the transport.

    with Scripted([answer({"data": 1}), reset]) as server:      # one response per connection
    with Serving(HandlerClass, tls=certificates(folder).good) as server:    # or server_context's
    with Proxy("user", "secret") as proxy:                      # a forward proxy, also for CONNECT
    with swallowing() as port:                                  # no connection to it ever begins
    with resolved(address(port)):                               # what each name leads to

Each listens on a free port of 127.0.0.1 until the end of the block. `url` and `port` are its
address, `requests` what it received, as bytes, and `connections` how many it accepted.
"""
import base64
import contextlib
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import unittest
from http.server import HTTPServer
from unittest import mock
from urllib.parse import urlsplit

PATIENCE = 60           # seconds; only a test that fails waits this long

try:
    import ssl
except ImportError:     # a Python built without it can run the tests that use no TLS
    ssl = None

needs_openssl = unittest.skipUnless(ssl and shutil.which("openssl"), "no openssl command")


####################################################################################################
# Responses: bytes, or a function (connection, request) that may do anything with the connection
####################################################################################################

def answer(body=b"", status=200, headers=(), reason="Scripted"):
    """The bytes of an HTTP response; a body that is neither bytes nor str is sent as JSON."""
    if not isinstance(body, (bytes, str)):
        body, headers = json.dumps(body), [("Content-Type", "application/json")] + list(headers)
    if isinstance(body, str):
        body = body.encode("utf-8")
    fields = [("Content-Length", len(body)), ("Connection", "close")] + list(headers)
    lines = [f"HTTP/1.1 {status} {reason}"] + [f"{name}: {value}" for name, value in fields]
    return "\r\n".join(lines + ["", ""]).encode("utf-8") + body


def drip(data, seconds=0.05, head=b""):
    """A response that sends `head` at once, then `data` byte by byte until the client disconnects.

    `data` is any iterable of ints, which may be endless, such as itertools.repeat(32). `seconds` is
    the pause after each byte.
    """
    def send(connection, request):
        connection.sendall(head)
        for byte in data:
            connection.sendall(bytes([byte]))
            if is_closed(connection, seconds):
                return
    return send


def reset(connection, request):
    """Resets the TCP connection without a response."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def silence(connection, request):
    """Never responds; waits for the client to disconnect."""
    while not is_closed(connection, PATIENCE):
        pass


def hang_up(connection, request):
    """Closes the connection cleanly, without a response."""


def is_closed(connection, seconds):
    """Whether the client, or the end of the server, closes the connection within that time."""
    readable, _, _ = select.select([connection], [], [], seconds)
    return bool(readable) and not connection.recv(65536)


def read_request(connection):
    """The bytes of the next request, or b"" if the client sent no complete head."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    missing = int(header(head, "Content-Length") or 0) - len(body)
    while missing > 0:
        piece = connection.recv(min(missing, 65536))
        if not piece:
            break
        data, missing = data + piece, missing - len(piece)
    return data


def header(request, name):
    """The first value of a header in the bytes of a request, or None."""
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name.lower().encode("ascii"):
            return value.strip().decode("latin-1")
    return None


def target(request):
    """The request target, which is the second word of the request line."""
    return request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[1]


####################################################################################################
# Servers
####################################################################################################

class Listener:
    """Accepts connections; each gets a thread that calls `converse(connection)`."""

    family, host = socket.AF_INET, "127.0.0.1"

    def __init__(self, tls=None):
        self.requests = []
        self.connections = 0
        self.refused = []               # messages of failed TLS handshakes
        self._context = tls and server_context(*tls)
        self._scheme = "https" if tls else "http"
        self._lock = threading.Lock()
        self._open = {}                 # thread: its connection
        self._closing = False

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self._listener = socket.socket(self.family, socket.SOCK_STREAM)
        self._listener.bind((self.host, 0))
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{self._scheme}://{host}:{self.port}"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def stop(self):
        self._closing = True
        # A connection ends accept() on every system, which close() does not.
        socket.create_connection((self.host, self.port), PATIENCE).close()
        self._acceptor.join(PATIENCE)
        self._listener.close()
        with self._lock:
            left = list(self._open)
            for connection in self._open.values():
                shut(connection)
        for thread in left:
            thread.join(PATIENCE)

    def _accept(self):
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                return connection.close()
            connection.settimeout(PATIENCE)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self.connections += 1
                self._open[thread] = connection
            thread.start()

    def _serve(self, connection):
        try:
            with self._wrap(connection) as wrapped:
                self.converse(wrapped)
        except OSError:                 # the client disconnected; the test checks its reaction
            pass
        finally:
            connection.close()
            with self._lock:
                del self._open[threading.current_thread()]

    def _wrap(self, connection):
        if not self._context:
            return connection
        with self._lock:                # meanwhile stop() could not end it: neither has the socket
            wrapped = self._context.wrap_socket(connection, server_side=True,
                                                do_handshake_on_connect=False)
            self._open[threading.current_thread()] = wrapped
        try:
            wrapped.do_handshake()
        except OSError as problem:
            self.refused.append(str(problem))
            wrapped.close()
            raise
        return wrapped

    def converse(self, connection):
        raise NotImplementedError


class Scripted(Listener):
    """Responds to the n-th connection with the n-th of `answers`, and to later ones with the last.

    A response is bytes, None (read the request, then close) or a function (connection, request).
    """

    def __init__(self, answers, tls=None):
        super().__init__(tls)
        self._answers = list(answers) if isinstance(answers, (list, tuple)) else [answers]
        self._turn = 0

    def converse(self, connection):
        request = read_request(connection)
        if not request:
            return
        with self._lock:
            self.requests.append(request)
            reply = self._answers[min(self._turn, len(self._answers) - 1)]
            self._turn += 1
        if callable(reply):
            reply(connection, request)
        elif reply:
            connection.sendall(reply)


class Serving(Listener):
    """Serves with a BaseHTTPRequestHandler class, optionally over TLS."""

    def __init__(self, handler, tls=None):
        super().__init__(tls)
        self._handler = handler
        # A handler requires a server; this one never listens.
        self._server = HTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)

    def stop(self):
        super().stop()
        self._server.server_close()

    def converse(self, connection):
        self._handler(connection, connection.getpeername(), self._server)


class Recording(Listener):
    """Answers nothing, and has in `received` all the bytes of each connection, decrypted."""

    def __init__(self, tls=None):
        super().__init__(tls)
        self.received = []

    def converse(self, connection):
        data = bytearray()
        with self._lock:
            self.received.append(data)
        while True:
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece


class Forwarding(Listener):
    """Passes each connection on to a port of 127.0.0.1, by default from the loopback of IPv6."""

    family, host = socket.AF_INET6, "::1"

    def __init__(self, target_port):
        super().__init__()
        self._target = ("127.0.0.1", target_port)

    def start(self):
        try:
            return super().start()
        except OSError:
            raise unittest.SkipTest("no ::1 here")

    def converse(self, connection):
        with socket.create_connection(self._target, PATIENCE) as upstream:
            relay(connection, upstream)


class Proxy(Listener):
    """A forward proxy, for requests with an absolute URL and for CONNECT.

    With a user, it requires Basic authentication (407). `hosts` maps names to addresses, such as
    {"example.test": ("127.0.0.1", 1234)}. `seen` has the first line of each request,
    `authorizations` its Proxy-Authorization header or None.
    """

    def __init__(self, user=None, password=None, hosts=None, tls=None):
        super().__init__(tls)
        self.seen, self.authorizations = [], []
        self._expected = None
        if user is not None:
            pair = f"{user}:{password or ''}"
            self._expected = "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")
        self._hosts = hosts or {}

    def converse(self, connection):
        request = read_request(connection)
        if not request:
            return
        authorization = header(request, "Proxy-Authorization")
        with self._lock:
            self.requests.append(request)
            self.seen.append(request.split(b"\r\n", 1)[0].decode("latin-1"))
            self.authorizations.append(authorization)
        if self._expected not in (None, authorization):
            challenge = [("Proxy-Authenticate", 'Basic realm="proxy"')]
            connection.sendall(answer("No credentials", 407, challenge, "Authentication Required"))
        elif request.startswith(b"CONNECT "):
            self._tunnel(connection, request)
        else:
            self._forward(connection, request)

    def _tunnel(self, connection, request):
        host, _, port = target(request).rpartition(":")
        with self._connect(host.strip("[]"), int(port), connection) as upstream:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            relay(connection, upstream)

    def _forward(self, connection, request):
        url = urlsplit(target(request))
        if url.scheme != "http" or not url.hostname:
            return connection.sendall(answer("Not an absolute http URL", 400))
        path = (url.path or "/") + ("?" + url.query if url.query else "")
        head, _, body = request.partition(b"\r\n\r\n")
        method, *lines = head.split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith((b"proxy-", b"connection:"))]
        first = f"{method.split(b' ')[0].decode('latin-1')} {path} HTTP/1.1"
        lines = [first.encode("latin-1")] + kept + [b"Connection: close", b"", body]
        with self._connect(url.hostname, url.port or 80, connection) as upstream:
            upstream.sendall(b"\r\n".join(lines))
            relay(connection, upstream)

    def _connect(self, host, port, connection):
        """A connection to the host; if that fails, the client gets a 502."""
        try:
            return socket.create_connection(self._hosts.get(host, (host, port)), PATIENCE)
        except OSError:
            connection.sendall(answer(f"Cannot connect to {host}:{port}", 502))
            raise


@contextlib.contextmanager
def swallowing():
    """A port of 127.0.0.1 that does not react to connections: its queue of them is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(50):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            if not select.select([], [client], [], 0.1)[1]:
                break
        else:
            raise unittest.SkipTest("a full queue refuses connections on this system")
        yield listener.getsockname()[1]


def address(port, family=socket.AF_INET, host="127.0.0.1"):
    """A result of getaddrinfo."""
    return family, socket.SOCK_STREAM, 6, "", (host, port)


def resolved(*addresses):
    """Within this block, each name has these addresses."""
    return mock.patch("socket.getaddrinfo", return_value=list(addresses))


def relay(one, other):
    """Copies bytes in both directions until either side closes its connection."""
    while True:
        readable, _, _ = select.select([one, other], [], [], PATIENCE)
        for source in readable:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)
        if not readable:
            return


def shut(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:             # already disconnected
        pass


####################################################################################################
# Certificates
####################################################################################################

_CONFIGURATION = """
[req]
distinguished_name = name
prompt = no
[name]
CN = Test
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[here]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost, IP:127.0.0.1
[elsewhere]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:elsewhere.example
[plain_authority]
basicConstraints = CA:TRUE
[plain]
subjectAltName = DNS:localhost, IP:127.0.0.1
[of_client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
[alone]
basicConstraints = critical, CA:FALSE
subjectKeyIdentifier = hash
subjectAltName = DNS:localhost, IP:127.0.0.1
[ca]
default_ca = office
[office]
database = index.txt
serial = serial.txt
new_certs_dir = .
policy = anything
default_md = sha256
[anything]
commonName = supplied
"""
# Only `openssl ca` can backdate a certificate in every version of openssl.
_STEPS = """
ecparam -name prime256v1 -genkey -noout -out ca.key
ecparam -name prime256v1 -genkey -noout -out server.key
req -new -x509 -config conf -key ca.key -days 3650 -extensions authority -subj /CN=Test -out ca.pem
req -new -config conf -key server.key -subj /CN=localhost -out server.csr
x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 11 -days 3650 -sha256 -extfile conf \
 -extensions here -out good.pem
x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 12 -days 3650 -sha256 -extfile conf \
 -extensions elsewhere -out wrong_host.pem
ca -batch -notext -config conf -cert ca.pem -keyfile ca.key -in server.csr -extensions here \
 -startdate 20200101000000Z -enddate 20200201000000Z -out expired.pem
req -new -x509 -config conf -key server.key -days 3650 -extensions alone -subj /CN=localhost \
 -out self_signed.pem
req -new -x509 -config conf -key ca.key -days 3650 -extensions plain_authority -subj /CN=Plain \
 -out plain_ca.pem
x509 -req -in server.csr -CA plain_ca.pem -CAkey ca.key -set_serial 14 -days 3650 -sha256 \
 -extfile conf -extensions plain -out plain.pem
x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 19 -days 10 -sha256 -extfile conf \
 -extensions here -out ending.pem
x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 15 -days 3650 -sha1 -extfile conf \
 -extensions here -out weak.pem
x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 16 -days 3650 -sha256 -extfile conf \
 -extensions of_client -out client.pem
ecparam -name prime256v1 -genkey -noout -out middle.key
req -new -config conf -key middle.key -subj /CN=Middle -out middle.csr
x509 -req -in middle.csr -CA ca.pem -CAkey ca.key -set_serial 17 -days 3650 -sha256 -extfile conf \
 -extensions authority -out middle.pem
x509 -req -in server.csr -CA middle.pem -CAkey middle.key -set_serial 18 -days 3650 -sha256 \
 -extfile conf -extensions here -out below.pem
ec -in server.key -aes128 -passout pass:secret -out encrypted.key
ecparam -name prime256v1 -genkey -noout -out other.key
"""
_made = {}              # file name: content, generated once per process
_making = threading.Lock()


class Certificates:
    """Paths: `ca` is a file of trusted certificates, the others are (certificate, key) pairs.

    `good` is valid for 127.0.0.1 and localhost, and so is `ending`, for 10 days. `expired`,
    `wrong_host`, `weak` (SHA-1) and `client` (not for servers) are signed by the same authority,
    `self_signed` is not. `plain` has
    no key identifiers, nor has its authority `plain_ca`; `below` is signed by the intermediate
    `middle`. `encrypted_key` and `other_key` are files, the latter is of no certificate.
    """

    def __init__(self, directory):
        def path(name):
            return os.path.join(directory, name)
        self.ca, self.plain_ca, self.middle = map(path, ("ca.pem", "plain_ca.pem", "middle.pem"))
        self.encrypted_key, self.other_key = path("encrypted.key"), path("other.key")
        for name in ("good", "ending", "expired", "wrong_host", "self_signed", "weak", "client",
                     "plain", "below"):
            setattr(self, name, (path(name + ".pem"), path("server.key")))


def certificates(directory):
    """Writes the test certificates into a directory; the first call generates them with openssl."""
    with _making:
        if not _made:
            _made.update(_make_certificates())
    for name, content in _made.items():
        with open(os.path.join(directory, name), "wb") as file:
            file.write(content)
    return Certificates(directory)


def certificate_for(directory, alternative_names="", common_name="x", key="rsa:2048"):
    """A (certificate, key) pair that its own authority is; names as openssl.cnf has them."""
    text = _CONFIGURATION.replace("DNS:localhost, IP:127.0.0.1", alternative_names)
    with open(os.path.join(directory, "conf"), "w") as file:
        file.write(text if alternative_names else _CONFIGURATION)
    extensions = "alone" if alternative_names else "plain_authority"
    _openssl(directory, ["req", "-new", "-x509", "-config", "conf", "-newkey", key, "-nodes",
                         "-keyout", "named.key", "-subj", "/CN=" + common_name, "-out", "named.pem",
                         "-extensions", extensions])
    return os.path.join(directory, "named.pem"), os.path.join(directory, "named.key")


def _make_certificates():
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("conf", _CONFIGURATION), ("index.txt", ""), ("serial.txt", "0D\n")):
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        for step in _STEPS.strip().splitlines():
            _openssl(folder, step.split())
        made = {}
        for name in os.listdir(folder):
            if name.endswith((".key", ".pem")) and name != "0D.pem":
                with open(os.path.join(folder, name), "rb") as file:
                    made[name] = file.read()
        return made


def _openssl(folder, arguments):
    done = subprocess.run(["openssl"] + arguments, cwd=folder, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        output = done.stdout.decode("utf-8", "replace")
        raise RuntimeError(f"openssl {' '.join(arguments)}\n{output}")


def server_context(certificate, key, client_ca=None, has_tls_1_3=True):
    """A server's ssl context; client_ca: whose client certificates it requires."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")      # which is not too good for a weak certificate
    context.load_cert_chain(certificate, key)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    if not has_tls_1_3 and hasattr(context, "maximum_version"):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    elif not has_tls_1_3:               # Python 3.6
        context.options |= ssl.OP_NO_TLSv1_3
    return context
