"""Test data for the stand-in server: `add_*` makes rows, `set_*` and others change them."""
import time
import uuid

from sessions import PROJECT_REF
from superjson import UNDEFINED, Date, parse_time, stamp, this_month
from world import COUNTERS


def fixed_id(letter, number):
    """A valid UUID that is the same on every run."""
    return f"{letter}0000000-0000-4000-8000-{number:012d}"


class Factory:
    """The methods of StandIn that make test data.

    Each `add_*` returns the ID of the new row. `fields` are further fields, named as on the wire.
    Without a project or an organization, the row belongs to those of the sample data.
    """

    def insert(self, table, parent, fields, id=None, created=None, updated=True):
        fields = dict(fields, createdAt=stamp(created or time.time()))
        if id:
            fields["id"] = id
        with self.lock:
            return self.world.insert(table, parent, fields, updated)

    # Organizations

    def add_account(self, email, password="pass", roles=None, id=None):
        """`roles`: role by organization ID."""
        account = self.insert("accounts", None, {"email": email, "password": password}, id)
        for org, role in (roles or {}).items():
            self.add_member(org, account, role)
        return account

    def add_member(self, org, account, role="MEMBER"):
        fields = {"organizationId": org, "userId": account, "role": role}
        return self.insert("members", org, fields, updated=False)

    def add_org(self, name="Organization", plan="FREE", roles=None, id=None, created=None,
                **fields):
        """`roles`: role by email (default: StandIn.OWNER is its owner)."""
        org = self.insert("organizations", None, dict(fields, name=name, plan=plan), id, created)
        accounts = {row["email"]: row["id"] for row in self.store.find("accounts")}
        for email, role in (roles or {self.OWNER[0]: "OWNER"}).items():
            self.add_member(org, accounts[email], role)
        return org

    def set_plan(self, org, plan):
        with self.lock:
            self.store.put("organizations", dict(self.store.get("organizations", org), plan=plan))

    def set_usage(self, org, month, traces=0, spans=0, evals=0, projects=None):
        """Sets the counters of a month such as "2026-03" (None: the current one).

        projects: (traces, spans, evals) by project ID; by default, the organization's first
        project has all of them.
        """
        month = month or this_month()
        with self.lock:
            if projects is None:
                first = next((row["id"] for row in list(self.store.find("projects", org))), None)
                projects = {first: (int(traces), int(spans), int(evals))} if first else {}
            row = {"id": f"{org} {month}", "counts": dict(zip(COUNTERS, (traces, spans, evals))),
                   "projects": {id: dict(zip(COUNTERS, counts)) for id, counts in projects.items()}}
            self.store.remove("usage", row["id"])
            self.store.add("usage", row, org)

    # Projects

    def add_project(self, name="Project", org=None, description=None, id=None, created=None,
                    **fields):
        org = org or self.org
        fields.update(organizationId=org, name=name, description=description)
        return self.insert("projects", org, fields, id, created)

    def add_trace(self, project=None, name="support-agent", status="OK", duration_ms=1200,
                  cost=0.012, scores=(), spans=(), tags=(), created=None, id=None, **fields):
        """`spans` are dicts of wire fields, `scores` dicts of arguments of `add_score`."""
        project, started = project or self.project, stamp(created or time.time())
        ended = stamp(parse_time(started).timestamp() + (duration_ms or 0) / 1000)
        row = {"projectId": project, "name": name, "startTime": started, "endTime": ended,
               "metadata": None, "tags": list(tags), "totalCost": cost, "totalTokens": 0,
               "status": status, "durationMs": duration_ms, "sessionId": UNDEFINED}
        row.update(fields)
        trace = self.insert("traces", project, row, id, started, updated=False)
        for span in spans:
            self.add_span(trace, project, dict({"startTime": started, "endTime": ended}, **span))
        for score in scores:
            self.add_score(trace, project=project, created=started, **score)
        return trace

    def add_span(self, trace, project=None, fields=None):
        row = {"traceId": trace, "parentSpanId": None, "projectId": project or self.project,
               "name": "step", "type": "CUSTOM", "startTime": self.world.now(), "endTime": None,
               "durationMs": 0, "input": None, "output": None, "model": None, "promptTokens": 0,
               "completionTokens": 0, "totalTokens": 0, "cost": 0, "status": "OK",
               "errorMessage": None, "metadata": None}
        row.update(fields or {})
        row["createdAt"] = Date(row["startTime"])
        with self.lock:
            return self.world.insert("spans", trace, row, updated=False)

    def add_score(self, trace, evaluator="helpfulness", value=0.92, label=None, reasoning=None,
                  project=None, created=None, **fields):
        fields.setdefault("evaluatorName", evaluator)
        fields.setdefault("spanId", None)
        project = project or self.store.parent("traces", trace) or self.project
        row = dict(fields, traceId=trace, projectId=project, value=value, label=label,
                   reasoning=reasoning)
        return self.insert("scores", trace, row, row.pop("id", None), created, updated=False)

    def add_evaluator(self, project=None, name="Evaluator", type="JSON_SCHEMA", config=None,
                      enabled=True, id=None, created=None, **fields):
        project = project or self.project
        fields.update(config={} if config is None else config, projectId=project, name=name,
                      type=type, enabled=enabled)
        return self.insert("evaluators", project, fields, id, created)

    def add_dataset(self, project=None, name="Dataset", description=None, id=None, created=None,
                    **fields):
        project = project or self.project
        fields.update(projectId=project, name=name, description=description)
        return self.insert("datasets", project, fields, id, created)

    def add_item(self, dataset, input=None, expected=None, metadata=None, id=None, created=None):
        fields = {"expectedOutput": expected, "metadata": metadata, "datasetId": dataset,
                  "input": input}
        return self.insert("items", dataset, fields, id, created, updated=False)

    def add_prompt(self, name, content, variables=None, project=None, description=None,
                   message=None, id=None):
        """A prompt template; if there is one of that name, its next version."""
        project = project or self.project
        with self.lock:
            rows = {row["name"]: row for row in self.store.find("prompts", project)}
            if name not in rows:
                fields = {"projectId": project, "name": name, "description": description,
                          "versions": []}
                made = self.insert("prompts", project, fields, id)
                rows[name] = self.store.get("prompts", made)
            row = rows[name]
            number = len(row["versions"]) + 1
            row["versions"].append({
                "id": str(uuid.uuid5(uuid.UUID(row["id"]), str(number))), "version": number,
                "content": content, "variables": variables or [], "commitMessage": message,
                "createdAt": self.world.now()})
            return self.world.change("prompts", row, {})["id"]

    def add_route(self, name="Routing", default_model="gpt-4o", rules=(), enabled=True,
                  project=None, id=None, **fields):
        """A model routing configuration."""
        project = project or self.project
        fields.update(projectId=project, name=name, defaultModel=default_model,
                      rules=list(rules), enabled=enabled)
        return self.insert("routes", project, fields, id)

    def add_key(self, project=None, name="Key", id=None, **fields):
        """An API key; `secret` returns the key itself."""
        if id:
            fields["id"] = id
        with self.lock:
            return self.world.create_key(fixed_id("a", 1), project or self.project, name,
                                         **fields)["id"]

    def secret(self, key_id):
        with self.lock:
            return self.store.get("api_keys", key_id)["key"]

    # Sessions

    def tokens(self, email="owner@example.com"):
        """The content of session.json for a new session of an account."""
        with self.transaction():
            account = next(row for row in list(self.store.find("accounts"))
                           if row["email"] == email)
            issued = self.sessions.open(account)
        return {"access_token": issued["access_token"], "refresh_token": issued["refresh_token"],
                "expires_at": issued["expires_at"], "user_id": account["id"],
                "user_email": email, "project_ref": PROJECT_REF}

    def revoke(self, email):
        """Revokes all sessions of an account."""
        with self.transaction():
            for session, _ in list(self.sessions.of(email)):
                self.sessions.close(session)

    def revoke_access(self, email):
        """Revokes the access tokens of an account; its refresh tokens remain valid."""
        self._change_access_tokens(email, dead=True)

    def expire(self, email):
        """Lets the access tokens of an account expire."""
        self._change_access_tokens(email, expires=int(time.time()) - 1)

    def _change_access_tokens(self, email, **fields):
        with self.transaction():
            for _, tokens in list(self.sessions.of(email)):
                for token in tokens:
                    if token["kind"] == "access":
                        self.store.put("tokens", dict(token, **fields))
