"""The tRPC API of the stand-in server: single calls and batches below /api/trpc/."""
import json

from messages import Refusal, Response, trpc_error
from procedures import PROCEDURES, RENAMED
from sessions import token_in_cookie
from superjson import UNDEFINED, dump, load
from zod import validate

KINDS = {"GET": "query", "POST": "mutation"}


class Trpc:
    """Responds to tRPC requests; `server` has the data, the sessions and the options."""

    def __init__(self, server):
        self.server = server

    def respond(self, request):
        with self.server.transaction():
            token = token_in_cookie(request.cookie)
            account = self.server.sessions.account(token)
        kind = KINDS.get(request.method, request.method)
        if "batch" in request.query:
            return self.respond_to_batch(request, kind, account)
        envelope = self.read_input(request, kind, UNDEFINED)
        status, body = self.call(request.procedures[0], kind, account, envelope)
        return Response(status, body)

    def respond_to_batch(self, request, kind, account):
        if not self.server.batching:
            raise Refusal("BAD_REQUEST", "Batching is not enabled on the server")
        inputs = self.read_input(request, kind, {})
        if not isinstance(inputs, dict):
            raise Refusal("BAD_REQUEST", '"input" needs to be an object when doing a batch call')
        results = [self.call(name, kind, account, inputs.get(str(position), UNDEFINED))
                   for position, name in enumerate(request.procedures)]
        statuses = {status for status, _ in results}
        status = statuses.pop() if len(statuses) == 1 else 207
        return Response(status, [body for _, body in results])

    def read_input(self, request, kind, default):
        """The JSON of the input, which is in the body of a mutation and in a query's address."""
        if kind == "mutation":
            if isinstance(request.body, bytes):
                raise Refusal("PARSE_ERROR", "Unexpected token in JSON")
            return default if request.body is None else request.body
        if "input" not in request.query:
            return default
        try:
            return json.loads(request.query["input"])
        except ValueError:
            raise Refusal("PARSE_ERROR", "Unexpected token in JSON")

    def call(self, name, kind, account, envelope):
        """The status and body of one call."""
        try:
            with self.server.transaction():
                result = self.perform(name, kind, account, envelope)
                return 200, {"result": {"data": dump(result)}}
        except Refusal as refusal:
            return refusal.status, self.error(refusal, name)

    def perform(self, name, kind, account, envelope):
        """The result of a procedure. Raises Refusal."""
        fields, function = self.look_up(name, kind)
        if account is None:
            raise Refusal("UNAUTHORIZED", "You must be logged in")
        if fields is None:
            return function(self.server.world, account, {})
        if self.server.require_project:
            fields = fields.replace("projectId?", "projectId")
        values = validate(self.read_envelope(envelope), fields, self.server.zod)
        return function(self.server.world, account, values)

    def read_envelope(self, envelope):
        if not isinstance(envelope, dict) or "json" not in envelope:
            return UNDEFINED
        try:
            return load(envelope)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise Refusal("BAD_REQUEST", "Invalid superjson meta")

    def look_up(self, name, kind):
        """The fields and the function of a procedure, if this version of the server has it."""
        missing = {"new": RENAMED.values(), "old": RENAMED, "both": ()}[self.server.names]
        known_kind, fields, function = PROCEDURES.get(name, (None, None, None))
        if name in missing:
            known_kind = None
        if known_kind == kind:
            return fields, function
        if self.server.errors == 10:
            raise Refusal("NOT_FOUND", f'No "{kind}"-procedure on path "{name}"')
        if known_kind is None:
            raise Refusal("NOT_FOUND", f'No procedure found on path "{name}"')
        method = "GET" if kind == "query" else "POST"
        raise Refusal("METHOD_NOT_SUPPORTED",
                      f'Unsupported {method}-request to {known_kind} procedure at path "{name}"')

    def error(self, refusal, path):
        """The body of an error; very old servers send it without the `json` level."""
        error = trpc_error(refusal, path)
        return {"error": error if self.server.bare_errors else {"json": error}}
