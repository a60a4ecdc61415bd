"""Faults that a test orders from the stand-in server."""
import threading

from messages import CODES, JSON_TYPE, Refusal, Response, rest_error, trpc_error


class Fault:
    """What goes wrong with a request.

    fragment, times: the fault affects the next `times` requests (None: all further requests) whose
        path contains `fragment`.
    status, body: respond with these. Without a body, the response is an error with that status in
        the format of the API that was called. HTML is sent as such, anything else as JSON.
    garbage: respond with status 200 and these bytes, declared as JSON.
    raw: send these bytes, with no HTTP around them, and close the connection.
    reset: reset the TCP connection.
    after: process the request before any of the above; by default, it is not processed.
    headers: additional response headers.
    delay: wait for that many seconds before responding; True: until `release` is set.
    cut: close the connection after that many bytes of the body.
    drip: send one byte at a time, with a pause of that many seconds after each.

    `begun` is set as soon as a request is affected, before the delay.
    """

    def __init__(self, fragment, times, status=None, body=None, headers=None, delay=0, cut=None,
                 garbage=None, reset=False, after=False, raw=None, drip=None):
        self.fragment, self.times = fragment, times
        self.status, self.body, self.headers = status, body, headers or {}
        self.delay, self.cut, self.garbage, self.reset = delay, cut, garbage, reset
        self.after, self.raw, self.drip = after, raw, drip
        self.begun, self.release = threading.Event(), threading.Event()

    def replaces_response(self):
        """Whether the client receives something other than the regular response."""
        return (self.reset or self.raw is not None or self.garbage is not None
                or self.status is not None or self.body is not None)

    def response(self, request):
        if self.garbage is not None:
            return Response(200, self.garbage, self.headers)
        status = self.status or 200
        body = error_body(request, status) if self.body is None else self.body
        if isinstance(body, str):
            body = body.encode("utf-8", "surrogatepass")
        html = isinstance(body, bytes) and body.lstrip().startswith(b"<")
        return Response(status, body, self.headers, "text/html" if html else JSON_TYPE)


def error_body(request, status):
    """An error with that status, in the format of the API that was called."""
    if status < 400:
        return b""
    code = next((name for name in CODES if CODES[name][0] == status and name != "PARSE_ERROR"),
                "INTERNAL_SERVER_ERROR")
    refusal = Refusal(code, f"Error {status}", status)
    if not request.procedures:
        return rest_error(refusal)
    return {"error": {"json": trpc_error(refusal, request.procedures[0])}}
