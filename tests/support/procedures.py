"""The tRPC procedures of the stand-in server: kind, input, and what each does with the data."""
import math

from messages import Refusal
from superjson import this_month
from zod import Problems

EDITORS = ("OWNER", "ADMIN", "MEMBER")
ADMINS = ("OWNER", "ADMIN")
RENAMED = {  # name on current servers: name on older ones
    "trace.getById": "trace.byId", "dataset.getById": "dataset.byId",
    "usage.getCurrentMonth": "usage.currentMonth"}
PROCEDURES = {}             # name: (kind, fields, function)


def procedure(name, kind, fields=None):
    """Registers `function(world, account, values)`; zod.validate describes `fields`."""
    def register(function):
        PROCEDURES[name] = (kind, fields, function)
        return function
    return register


##################################################################################################
# Organizations and projects
##################################################################################################

@procedure("organization.list", "query")
def list_organizations(world, account, values):
    rows = []
    for org in world.store.find("organizations"):
        if world.role(account, org["id"]):
            rows.append(shown_org(world, account, org))
    return rows


def shown_org(world, account, org):
    """An organization as its members see it: with their own role."""
    return dict(org, role=world.role(account, org["id"]),
                memberCount=world.number(world.store.count("members", org["id"])))


@procedure("organization.create", "mutation", "name:name")
def create_organization(world, account, values):
    org = world.create("organizations", None, {"name": values["name"], "plan": "FREE"})
    world.insert("members", org["id"], {"organizationId": org["id"], "userId": account["id"],
                                        "role": "OWNER"}, updated=False)
    return org


@procedure("organization.getById", "query", "organizationId:id")
def get_organization(world, account, values):
    org = shown_org(world, account, world.see_org(account, values["organizationId"]))
    org["members"] = [with_email(world, row) for row in world.store.find("members", org["id"])]
    return org


def with_email(world, member):
    account = world.store.get("accounts", member["userId"]) or {"email": None}
    if world.options.nested_users:
        return dict(member, user={"id": member["userId"], "email": account["email"]})
    return dict(member, email=account["email"])


@procedure("organization.update", "mutation", "organizationId:id name:name")
def update_organization(world, account, values):
    org = world.see_org(account, values["organizationId"], *ADMINS)
    org = world.change("organizations", org, {"name": values["name"]})
    return shown_org(world, account, org)


@procedure("organization.addMember", "mutation",
           "organizationId:id userId?:id role:role email?:text")
def add_member(world, account, values):
    org = world.see_org(account, values["organizationId"], *ADMINS)
    for user in world.store.find("accounts"):
        if values.get("userId") == user["id"] or values.get("email") == user["email"]:
            break
    else:
        raise Refusal("NOT_FOUND", "User not found")
    if world.role(user, org["id"]):
        raise Refusal("CONFLICT", "User is already a member")
    seats = world.plan(org["id"]).seats if world.options.seats else math.inf
    if world.store.count("members", org["id"]) >= seats:
        raise Refusal("FORBIDDEN", "Seat limit reached")
    member = world.create("members", org["id"], {
        "organizationId": org["id"], "userId": user["id"], "role": values["role"]}, updated=False)
    return with_email(world, member)


@procedure("organization.removeMember", "mutation", "organizationId?:id memberId:id")
def remove_member(world, account, values):
    member = world.store.get("members", values["memberId"])
    if not member:
        raise Refusal("NOT_FOUND", "Member not found")
    world.see_org(account, member["organizationId"], *ADMINS)
    if member["role"] == "OWNER":
        raise Refusal("FORBIDDEN", "Cannot remove the owner")
    world.store.remove("members", member["id"])
    return {"success": True}


@procedure("project.list", "query", "organizationId:id")
def list_projects(world, account, values):
    world.see_org(account, values["organizationId"])
    return list(world.store.find("projects", values["organizationId"]))


@procedure("project.create", "mutation", "organizationId:id name:name description?:text")
def create_project(world, account, values):
    org = world.see_org(account, values["organizationId"], *EDITORS)
    return world.create("projects", org["id"], {
        "organizationId": org["id"], "name": values["name"],
        "description": values.get("description")})


@procedure("project.update", "mutation", "projectId:id name?:name description?:text")
def update_project(world, account, values):
    project = world.see_project(account, values.pop("projectId"), *EDITORS)
    return world.change("projects", project, values)


@procedure("project.delete", "mutation", "projectId:id")
def delete_project(world, account, values):
    world.see_project(account, values["projectId"], *ADMINS)
    world.remove_project(values["projectId"])
    return {"success": True}


##################################################################################################
# Traces
##################################################################################################

@procedure("trace.list", "query",
           "projectId:id limit?:limit cursor?:id status?:status name?:text search?:text "
           "tags?:texts startDate?:date endDate?:date")
def list_traces(world, account, values):
    world.see_project(account, values["projectId"])
    rows, cursor = world.page(values["projectId"], values)
    traces = [world.summary(row, world.options.list_scores) for row in rows]
    if world.options.bare_list:
        return traces
    return {world.options.page_key: traces, "nextCursor": cursor}


@procedure("trace.getById", "query", "traceId:id projectId?:id")
def get_trace(world, account, values):
    return world.detail(world.see("traces", "Trace", account, values, key="traceId"))


@procedure("trace.byId", "query", "id:id projectId?:id")
def get_trace_by_id(world, account, values):
    return world.detail(world.see("traces", "Trace", account, values))


##################################################################################################
# Evaluators
##################################################################################################

@procedure("evaluator.list", "query", "projectId:id")
def list_evaluators(world, account, values):
    world.see_project(account, values["projectId"])
    return list(world.store.find("evaluators", values["projectId"]))


@procedure("evaluator.create", "mutation", "projectId:id name:name type:type config?:any")
def create_evaluator(world, account, values):
    world.see_project(account, values["projectId"], *EDITORS)
    return world.create("evaluators", values["projectId"], {
        "config": values.get("config", {}), "projectId": values["projectId"],
        "name": values["name"], "type": values["type"], "enabled": True})


@procedure("evaluator.update", "mutation",
           "id:id projectId?:id name?:name type?:type config?:any enabled?:bool")
def update_evaluator(world, account, values):
    row = world.see("evaluators", "Evaluator", account, values, *EDITORS)
    return world.change("evaluators", row, values)


@procedure("evaluator.delete", "mutation", "id:id projectId?:id")
def delete_evaluator(world, account, values):
    row = world.see("evaluators", "Evaluator", account, values, *EDITORS)
    world.store.remove("evaluators", row["id"])
    return {"success": True}


##################################################################################################
# Datasets
##################################################################################################

@procedure("dataset.list", "query", "projectId:id")
def list_datasets(world, account, values):
    world.see_project(account, values["projectId"])
    return [dict(row, _count={"items": world.number(world.store.count("items", row["id"]))})
            for row in world.store.find("datasets", values["projectId"])]


@procedure("dataset.create", "mutation", "projectId:id name:name description?:text")
def create_dataset(world, account, values):
    world.see_project(account, values["projectId"], *EDITORS)
    return world.create("datasets", values["projectId"], {
        "projectId": values["projectId"], "name": values["name"],
        "description": values.get("description")})


@procedure("dataset.update", "mutation", "id:id projectId?:id name?:name description?:text")
def update_dataset(world, account, values):
    row = world.see("datasets", "Dataset", account, values, *EDITORS)
    return world.change("datasets", row, values)


@procedure("dataset.delete", "mutation", "id:id projectId?:id")
def delete_dataset(world, account, values):
    row = world.see("datasets", "Dataset", account, values, *EDITORS)
    world.store.remove("datasets", row["id"])
    world.store.remove_all("items", row["id"])
    return {"success": True}


@procedure("dataset.byId", "query", "id:id projectId?:id")
@procedure("dataset.getById", "query", "id:id projectId?:id")
def get_dataset(world, account, values):
    row = world.see("datasets", "Dataset", account, values)
    return dict(row, items=list(world.store.find("items", row["id"])))


@procedure("dataset.addItem", "mutation",
           "datasetId:id projectId?:id input:any expectedOutput?:any metadata?:any")
def add_item(world, account, values):
    row = world.see("datasets", "Dataset", account, values, *EDITORS, key="datasetId")
    if world.options.rejects:
        refuse_input(world, world.options.rejects(values["input"]))
    return world.create("items", row["id"], {
        "expectedOutput": values.get("expectedOutput"), "metadata": values.get("metadata"),
        "datasetId": row["id"], "input": values["input"]}, updated=False)


def refuse_input(world, problem):
    problems = Problems(world.options.zod)
    if problem:
        problems.add("input", (problem, problem), {"code": "custom"}, {"code": "custom"})
    problems.raise_if_any()


@procedure("dataset.removeItem", "mutation", "itemId:id projectId?:id")
def remove_item(world, account, values):
    item = world.store.get("items", values.pop("itemId"))
    if not item:
        raise Refusal("NOT_FOUND", "Dataset item not found")
    world.see("datasets", "Dataset", account, dict(values, id=item["datasetId"]), *EDITORS)
    world.store.remove("items", item["id"])
    return {"success": True}


##################################################################################################
# API keys
##################################################################################################

@procedure("apiKey.list", "query", "projectId:id")
def list_keys(world, account, values):
    world.see_project(account, values["projectId"])
    return [without_secret(row) for row in world.store.find("api_keys", values["projectId"])]


def without_secret(row):
    row.pop("key", None)
    return row


@procedure("apiKey.create", "mutation", "projectId:id name:name")
def create_key(world, account, values):
    world.see_project(account, values["projectId"], *EDITORS)
    return world.create_key(account["id"], values["projectId"], values["name"])


@procedure("apiKey.revoke", "mutation", "id:id projectId?:id")
def revoke_key(world, account, values):
    row = world.see("api_keys", "API key", account, values, *EDITORS)
    if row["revokedAt"] is None:
        row = world.change("api_keys", row, {"revokedAt": world.now()})
    row["secret"] = row.pop("key")      # a recorded server does so; nobody may see it
    return row


@procedure("apiKey.rotate", "mutation", "id:id projectId?:id")
def rotate_key(world, account, values):
    row = world.see("api_keys", "API key", account, values, *EDITORS)
    if row["revokedAt"] is not None:
        raise Refusal("BAD_REQUEST", "API key is revoked")
    world.change("api_keys", row, {"revokedAt": world.now()})
    return world.create_key(account["id"], row["projectId"], row["name"], rotatedFromId=row["id"])


##################################################################################################
# Usage and model routing
##################################################################################################

@procedure("usage.currentMonth", "query", "organizationId:id")
@procedure("usage.getCurrentMonth", "query", "organizationId:id")
def get_usage(world, account, values):
    org = world.see_org(account, values["organizationId"])["id"]
    month = this_month()
    counts, projects = world.usage(org, month)
    breakdown = [dict(numbers, projectId=project) for project, numbers in projects.items()]
    return dict(counts, month=month, projectBreakdown=breakdown)


@procedure("usage.getHistory", "query", "organizationId:id months?:months")
def get_usage_history(world, account, values):
    org = world.see_org(account, values["organizationId"])["id"]
    return world.usage_history(org, int(values.get("months", 12)))


@procedure("modelRouting.list", "query", "projectId:id")
def list_routes(world, account, values):
    world.see_project(account, values["projectId"])
    return list(world.store.find("routes", values["projectId"]))


@procedure("modelRouting.create", "mutation",
           "projectId:id name:name defaultModel:name rules?:list enabled?:bool")
def create_route(world, account, values):
    world.see_project(account, values["projectId"], *EDITORS)
    fields = dict({"rules": [], "enabled": True}, **values)
    return world.create("routes", values["projectId"], fields)


@procedure("modelRouting.update", "mutation",
           "id:id projectId?:id name?:name defaultModel?:name rules?:list enabled?:bool")
def update_route(world, account, values):
    row = world.see("routes", "Model routing rule", account, values, *EDITORS)
    return world.change("routes", row, values)


@procedure("modelRouting.delete", "mutation", "id:id projectId?:id")
def delete_route(world, account, values):
    row = world.see("routes", "Model routing rule", account, values, *EDITORS)
    world.store.remove("routes", row["id"])
    return {"success": True}
