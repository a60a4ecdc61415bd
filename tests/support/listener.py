"""The HTTP server below the stand-in: connections, what it received, and ordered faults."""
import contextlib
import http.server
import os
import socket
import socketserver
import struct
import threading
import time
import traceback

from faults import Fault
from messages import Request


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads requests from one connection and passes them to the server."""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_request(self):
        length = self.headers.get("Content-Length") or "0"
        data = self.rfile.read(int(length)) if length.isdigit() else b""
        request = Request(self.command, self.path, self.headers, data)
        self.server.owner.serve(request, self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

    def log_message(self, *args):
        """Logs nothing."""

    def send(self, response, cut=None, drip=None):
        """Sends a response in one write, so that it leaves in one packet; see Fault."""
        reason = self.responses.get(response.status, ("",))[0]
        headers = dict(self.default_headers(len(response.body)), **response.headers)
        lines = [f"HTTP/1.1 {response.status} {reason}"]
        for name, value in headers.items():
            values = value if isinstance(value, list) else [value]
            lines += [f"{name}: {each}" for each in values]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        body = response.body
        if cut is not None:
            body, self.close_connection = body[:cut], True
        if drip is None:
            self.wfile.write(head + body)
        else:
            self.drip(head + body, drip)

    def default_headers(self, length):
        headers = {"Content-Length": str(length)}
        date = self.server.owner.date
        if date is not None:
            is_text = isinstance(date, str)
            headers["Date"] = date if is_text else self.date_time_string(time.time() + date)
        return headers

    def drip(self, data, seconds):
        stopping = self.server.owner.stopping
        for position in range(len(data)):
            self.wfile.write(data[position:position + 1])
            if stopping.wait(seconds):
                self.close_connection = True
                break

    def send_raw(self, data):
        self.close_connection = True
        self.wfile.write(data)

    def reset(self):
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.server.owner.resetting.add(self.connection)


class Listener(socketserver.TCPServer):
    """The listening socket. One thread accepts, and each connection gets a thread of its own."""
    allow_reuse_address = os.name != "nt"
    request_queue_size = 256

    def __init__(self, owner, port):
        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=False)
        self.owner = owner
        try:
            self.server_bind()
            self.server_activate()
        except OSError:
            self.server_close()
            raise

    def accept_until_stopped(self):
        while not self.owner.stopping.is_set():
            try:
                connection, address = self.socket.accept()
            except OSError:
                continue
            if self.owner.stopping.is_set():
                connection.close()
                break
            self.owner.welcome(connection, address)

    def wake(self):
        """Ends the wait in accept(), which closing the socket would not do everywhere."""
        with contextlib.suppress(OSError):
            socket.create_connection(self.server_address, 5).close()


class HttpServer:
    """Serves `answer(request)`, which a subclass defines, and records the requests.

    requests: what was received. connections: how many were accepted. failures: tracebacks of
    errors in the server itself. faults: those ordered and not cleared. date: the seconds that its
    Date header is off, or the text to send in its place, or None to send none.
    """

    date = 0

    def __init__(self):
        self.lock = threading.RLock()
        self.requests, self.faults, self.failures = [], [], []
        self.connections = 0

    def answer(self, request):
        raise NotImplementedError

    # Starting and stopping

    def listen(self, port, tls=None):
        """Starts to serve on a port of 127.0.0.1 (0: a free one); sets `url`."""
        self.stopping, self.resetting, self.threads = threading.Event(), set(), {}
        self.context = None
        if tls:
            import ssl      # not every Python is built with it
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*tls)
        self.listener = Listener(self, port)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.listener.server_address[1]}"
        self.acceptor = threading.Thread(target=self.listener.accept_until_stopped, daemon=True)
        self.acceptor.start()

    def shut_down(self):
        """Ends all threads and connections."""
        self.stopping.set()
        self.release_faults()
        self.listener.wake()
        self.acceptor.join()
        self.listener.server_close()
        with self.lock:
            threads = list(self.threads)
            for connection in self.threads.values():
                # Not the method of a TLS socket: its state belongs to the thread that serves it.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def settle(self):
        """Waits until what a killed client has sent is handled."""
        # Connections are accepted in turn, so the client's was before this one.
        with socket.create_connection(self.listener.server_address) as probe:
            probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
            probe.recv(1)
        with self.lock:
            threads = list(self.threads)
        for thread in threads:
            thread.join()

    # Connections

    def welcome(self, connection, address):
        thread = threading.Thread(target=self.converse, args=(connection, address), daemon=True)
        with self.lock:
            self.connections += 1
            self.threads[thread] = connection
        thread.start()

    def converse(self, connection, address):
        try:
            if self.context:
                with self.lock:     # meanwhile shut_down() could not end it: neither has the socket
                    connection = self.context.wrap_socket(connection, server_side=True,
                                                          do_handshake_on_connect=False)
                    self.threads[threading.current_thread()] = connection
                connection.do_handshake()
            Handler(connection, address, self.listener)
        except OSError:
            pass    # the client closed the connection
        except Exception:
            self.failures.append(traceback.format_exc())
        finally:
            self.hang_up(connection)

    def hang_up(self, connection):
        if connection not in self.resetting:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        self.resetting.discard(connection)
        connection.close()
        with self.lock:
            self.threads.pop(threading.current_thread(), None)

    # Requests and faults

    def serve(self, request, handler):
        with self.lock:
            self.requests.append(request)
            fault = self.take_fault(request)
        if fault:
            self.serve_fault(request, handler, fault)
        else:
            handler.send(self.answer(request))

    def take_fault(self, request):
        """The fault that affects this request, or None."""
        for fault in self.faults:
            if fault.fragment in request.path and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def serve_fault(self, request, handler, fault):
        response = None
        if fault.after or not fault.replaces_response():
            response = self.answer(request)
        fault.begun.set()
        if fault.delay is True:
            fault.release.wait()
        elif fault.delay:
            self.stopping.wait(fault.delay)
        if fault.reset:
            return handler.reset()
        if fault.raw is not None:
            return handler.send_raw(fault.raw)
        if fault.replaces_response():
            response = fault.response(request)
        else:
            response.headers.update(fault.headers)
        handler.send(response, fault.cut, fault.drip)

    def fault(self, fragment="", times=1, **kind):
        """Orders a fault, see Fault; returns it."""
        fault = Fault(fragment, times, **kind)
        with self.lock:
            self.faults.append(fault)
        return fault

    def release_faults(self):
        for fault in self.faults:
            fault.release.set()

    def count(self, fragment=""):
        """The number of requests whose path contains `fragment`."""
        with self.lock:
            return sum(fragment in request.path for request in self.requests)

    def clear(self):
        """Forgets the requests and connections so far, and all faults."""
        with self.lock:
            self.release_faults()
            del self.requests[:]
            del self.faults[:]
            self.connections = 0
