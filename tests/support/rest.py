"""The REST API of the stand-in server: accounts, and what a project's API key gives access to."""
import time

from ingestion import invalid, is_time, read_events, read_otlp
from messages import Refusal, Response, rest_error
from superjson import to_plain
from zod import PAGE_LIMIT, STATUSES

HTML_404 = b"<!DOCTYPE html><html><body>404: This page could not be found.</body></html>"
BODY_LIMITS = {"/api/v1/scores": 10 ** 6, "/api/v1/route-model": 512 * 1000}    # in bytes
LIMITED = ("/api/v1/traces", "/api/v1/otel/traces", "/api/v1/scores", "/api/v1/route-model")


class Rest:
    """Responds to REST requests; `server` has the data, the sessions and the options."""

    def __init__(self, server):
        self.server = server
        self.routes = {("POST", "/api/v1/auth/login"): self.log_in,
                       ("POST", "/api/v1/auth/refresh"): self.refresh,
                       ("POST", "/api/v1/auth/logout"): self.log_out,
                       ("GET", "/api/v1/traces"): self.list_traces,
                       ("POST", "/api/v1/traces"): self.ingest,
                       ("POST", "/api/v1/otel/traces"): self.ingest_otel,
                       ("POST", "/api/v1/scores"): self.add_score,
                       ("GET", "/api/v1/prompt-templates"): self.show_prompts,
                       ("POST", "/api/v1/prompt-templates"): self.add_prompt,
                       ("POST", "/api/v1/route-model"): self.route_model,
                       ("GET", "/api/v1/health"): self.report_health}

    def respond(self, request):
        route = self.routes.get((request.method, request.path))
        if not route:
            return Response(404, HTML_404, content_type="text/html")
        try:
            self.check_size(request)
            response = route(request)
        except Refusal as refusal:
            response = Response(refusal.status, rest_error(refusal))
        if request.path in LIMITED:
            with self.server.transaction():
                response.headers.update(self.rate_limit(request))
        return response

    def check_size(self, request):
        is_ingestion = request.path in ("/api/v1/traces", "/api/v1/otel/traces")
        limit = self.server.body_limit if is_ingestion else BODY_LIMITS.get(request.path)
        if limit and request.size > limit:
            raise Refusal("PAYLOAD_TOO_LARGE", f"Body exceeds {limit} bytes")

    def rate_limit(self, request):
        """The headers that tell how many requests a key may make; {} without a valid key."""
        key = self.key_of(request)
        if not key:
            return {}
        org = self.server.store.parent("projects", key["projectId"])
        limit = self.server.world.plan(org).requests
        skew = self.server.date if isinstance(self.server.date, (int, float)) else 0
        return {"RateLimit-Limit": str(limit), "RateLimit-Remaining": str(limit - 1),
                "RateLimit-Reset": str(int(time.time() + skew) + 1)}

    def report_health(self, request):
        return Response(200, {"status": "ok"})

    # Accounts

    def log_in(self, request):
        email, password = texts_of(request, "Email and password are required", "email", "password")
        with self.server.transaction():
            for account in self.server.store.find("accounts"):
                if account["email"] == email and account["password"] == password:
                    return enveloped(self.server.sessions.open(account))
        raise Refusal("INVALID_CREDENTIALS", "Invalid login credentials", 401)

    def refresh(self, request):
        token, = texts_of(request, "Refresh token is required", "refresh_token")
        self.server.stopping.wait(self.server.refresh_delay)
        with self.server.transaction():
            return enveloped(self.server.sessions.refresh(token))

    def log_out(self, request):
        with self.server.transaction():
            token = bearer_token(request)
            if not self.server.sessions.account(token):
                raise Refusal("UNAUTHORIZED", "Missing or invalid access token")
            self.server.sessions.close(self.server.sessions.session_of(token))
        return enveloped({"success": True})

    # With an API key

    def project_of_key(self, request):
        """The ID of the project whose API key the request carries."""
        row, world = self.key_of(request), self.server.world
        if not row:
            raise Refusal("UNAUTHORIZED", "Invalid or revoked API key")
        world.change("api_keys", row, {"lastUsedAt": world.now()})
        return row["projectId"]

    def key_of(self, request):
        """The row of the API key that the request carries; None unless it is valid."""
        key = bearer_token(request)
        for row in list(self.server.store.find("api_keys")):
            if key and row["key"] == key and row["revokedAt"] is None:
                return row
        return None

    def response(self, status, body):
        return enveloped(body, status) if self.server.rest_envelope else Response(status, body)

    def data_response(self, status, data):
        """The same for endpoints that every server wraps, in {"data": …} at least."""
        return self.response(status, data if self.server.rest_envelope else {"data": data})

    def list_traces(self, request):
        world = self.server.world
        with self.server.transaction():
            project = self.project_of_key(request)
            rows, cursor = world.page(project, self.filters(request.query))
            traces = [rest_trace(world.summary(row)) for row in rows]
        return self.response(200, {"traces": traces, "nextCursor": cursor})

    def filters(self, query):
        names = self.server.known_filters + ("cursor",)
        filters = {name: query[name] for name in names if query.get(name)}
        limit = query.get("limit", "50")
        if not limit.isdigit() or not 1 <= int(limit) <= PAGE_LIMIT:
            raise invalid(f"limit must be between 1 and {PAGE_LIMIT}")
        if filters.get("status", "OK") not in STATUSES:
            raise invalid("status must be OK or ERROR")
        if "tags" in filters:
            filters["tags"] = filters["tags"].split(",")
        for name in ("startDate", "endDate"):
            if not is_time(filters.get(name, "2026-03-14")):
                raise invalid(f"{name} must be a date")
        return dict(filters, limit=int(limit))

    def ingest(self, request):
        with self.server.transaction():
            project = self.project_of_key(request)
            events = request.body.get("batch") if isinstance(request.body, dict) else None
            rows = read_events(events, self.server.world.now())
            if len(rows) > self.server.batch_limit:
                raise Refusal("PAYLOAD_TOO_LARGE",
                              f"At most {self.server.batch_limit} events in a batch")
            self.server.worker.accept(project, rows)
        return self.response(201, {"accepted": len(rows)})

    def ingest_otel(self, request):
        with self.server.transaction():
            project, rows = self.project_of_key(request), read_otlp(request.body)
            self.server.worker.accept(project, rows)
            spans = [row for table, row in rows if table == "spans"]
            return self.response(200, {"accepted": len(spans)})

    def add_score(self, request):
        with self.server.transaction():
            project = self.project_of_key(request)
            trace, name = texts_of(request, "traceId and evaluatorName are required",
                                   "traceId", "evaluatorName")
            value = request.body.get("value")
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise invalid("value must be a number from 0 to 1")
            if self.server.store.parent("traces", trace) != project:
                raise Refusal("NOT_FOUND", "Trace not found")
            score = self.server.add_score(trace, evaluator=name, value=value,
                                          label=request.body.get("label"),
                                          reasoning=request.body.get("reasoning"),
                                          spanId=request.body.get("spanId"))
            return self.response(201, to_plain(self.server.store.get("scores", score)))

    def show_prompts(self, request):
        """All prompt templates without their text; with a name, that one in full."""
        name, version = request.query.get("name"), request.query.get("version")
        with self.server.transaction():
            rows = list(self.server.store.find("prompts", self.project_of_key(request)))
            if version and not name:
                raise invalid("version requires name")
            if not name:
                return self.data_response(200, [prompt_in_list(row) for row in rows])
            for row in rows:
                if row["name"] == name:
                    return self.data_response(200, prompt_in_full(row, version))
        raise Refusal("NOT_FOUND", "Prompt template not found")

    def add_prompt(self, request):
        """Makes a prompt template; if there is one of that name, its next version."""
        with self.server.transaction():
            project, body = self.project_of_key(request), request.body
            name, content = texts_of(request, "name and content are required", "name", "content")
            prompt = self.server.add_prompt(
                name, content, body.get("variables"), project, body.get("description"),
                body.get("commitMessage"))
            return self.data_response(201, prompt_in_full(self.server.store.get("prompts", prompt)))

    def route_model(self, request):
        """The model for an input: by default as recorded, else that of the configuration."""
        with self.server.transaction():
            project = self.project_of_key(request)
            texts_of(request, "input is required", "input")
            name = request.body.get("configName") or "default"
            models = {row["name"]: row["defaultModel"]
                      for row in self.server.store.find("routes", project)}
            models.setdefault("default", "gpt-4o-mini")
            if name not in models:
                raise Refusal("NOT_FOUND", "Routing config not found")
            return self.response(200, {"model": models[name], "configName": name,
                                       "complexity": 0.25})


def enveloped(data, status=200):
    return Response(status, {"data": data, "error": None})


def texts_of(request, message, *names):
    """The values of these fields; refuses the request with `message` unless all have text."""
    body = request.body if isinstance(request.body, dict) else {}
    values = [body.get(name) for name in names]
    if not all(isinstance(value, str) and value for value in values):
        raise invalid(message)
    return values


def bearer_token(request):
    scheme, _, token = (request.headers.get("Authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def rest_trace(trace):
    """A trace in plain JSON, with `spanCount` and `scoreCount` in place of `_count`."""
    counts = trace.pop("_count")
    trace.update(spanCount=counts["spans"], scoreCount=counts["scores"])
    return to_plain(trace)


def prompt_in_list(prompt):
    shown = {key: prompt[key] for key in ("id", "name", "description", "createdAt", "updatedAt")}
    return to_plain(dict(shown, latestVersion=len(prompt["versions"])))


def prompt_in_full(prompt, version=None):
    """A prompt template with one of its versions, the latest unless a number is given."""
    for each in reversed(prompt["versions"]):
        if version in (None, "", str(each["version"])):
            return to_plain({"id": prompt["id"], "name": prompt["name"], "version": each})
    raise Refusal("NOT_FOUND", "Prompt template version not found")
