"""What goes over the wire: a request, a response, and the errors of either API as bodies."""
import json
import urllib.parse

from superjson import encode

JSON_TYPE = "application/json"
TRPC_PREFIX = "/api/trpc/"
CODES = {  # name: (HTTP status, JSON-RPC number)
    "PARSE_ERROR": (400, -32700), "BAD_REQUEST": (400, -32600), "UNAUTHORIZED": (401, -32001),
    "FORBIDDEN": (403, -32003), "NOT_FOUND": (404, -32004), "METHOD_NOT_SUPPORTED": (405, -32005),
    "TIMEOUT": (408, -32008), "CONFLICT": (409, -32009), "PRECONDITION_FAILED": (412, -32012),
    "PAYLOAD_TOO_LARGE": (413, -32013), "UNPROCESSABLE_CONTENT": (422, -32022),
    "TOO_MANY_REQUESTS": (429, -32029), "INTERNAL_SERVER_ERROR": (500, -32603),
    "BAD_GATEWAY": (502, -32603), "SERVICE_UNAVAILABLE": (503, -32603),
    "GATEWAY_TIMEOUT": (504, -32603)}


class Refusal(Exception):
    """The request is answered with an error. `code` is a key of CODES unless `status` is given."""

    def __init__(self, code, message, status=None, headers=None):
        super().__init__(message)
        self.code, self.message, self.headers = code, message, headers
        self.status = status or CODES[code][0]


class Request:
    """A request as it was received.

    `path` excludes the query string, which `query` holds as a dict. `body` is the parsed JSON, the
    bytes if they are not JSON, or None; `size` is its number of bytes. `procedures` names the tRPC
    procedures that were called.
    """

    def __init__(self, method, target, headers, data):
        self.method, self.target, self.headers = method, target, headers
        self.cookie, self.size = headers.get("Cookie"), len(data)
        self.path, _, query = target.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.procedures = []
        if self.path.startswith(TRPC_PREFIX):
            name = urllib.parse.unquote(self.path[len(TRPC_PREFIX):])
            self.procedures = name.split(",") if "batch" in self.query else [name]
        try:
            self.body = json.loads(data.decode("utf-8")) if data else None
        except ValueError:
            self.body = data

    def __repr__(self):
        return f"<{self.method} {self.target}>"


class Response:
    """A response; a body that is not bytes is sent as JSON."""

    def __init__(self, status, body, headers=None, content_type=JSON_TYPE):
        self.status = status
        self.body = body if isinstance(body, bytes) else encode(body)
        self.headers = dict({"Content-Type": content_type}, **(headers or {}))


def trpc_error(refusal, path):
    """The error object of tRPC, without an envelope."""
    return {"message": refusal.message, "code": CODES[refusal.code][1],
            "data": {"code": refusal.code, "httpStatus": refusal.status, "path": path}}


def rest_error(refusal):
    return {"data": None, "error": {"code": refusal.code, "message": refusal.message}}
