"""Sessions of the stand-in server: access tokens, refresh tokens that work once, the cookie."""
import base64
import hashlib
import hmac
import json
import re
import secrets
import time
import urllib.parse
import uuid

from messages import Refusal
from superjson import encode

PROJECT_REF = "abcdefghijklmnop"
TOKEN_SECONDS = 3600        # how long an access token is valid


class Sessions:
    """Issues and checks tokens; `options` are those of the server."""

    def __init__(self, store, options):
        self.store, self.options = store, options

    def open(self, account):
        """A new session of an account, as a login returns it."""
        session = str(uuid.uuid4())
        self.store.add("sessions", {"id": session, "revoked": False}, account["id"])
        return self.issue(account, session)

    def issue(self, account, session):
        """New tokens for a session, as login and refresh return them."""
        expires = int(time.time() + TOKEN_SECONDS)
        access, refresh = self.sign(account, expires), "v1." + secrets.token_urlsafe(24)
        facts = {"account": account["id"], "used": False, "dead": False, "expires": expires}
        self.store.add("tokens", dict(facts, id=access, kind="access"), session)
        self.store.add("tokens", dict(facts, id=refresh, kind="refresh"), session)
        issued = {"access_token": access, "refresh_token": refresh, "expires_at": expires,
                  "user": {"id": account["id"], "email": account["email"]}}
        if self.options.project_ref:
            issued["project_ref"] = PROJECT_REF
        return issued

    def sign(self, account, expires):
        """A JWT; the option `padding` makes it longer by that many characters."""
        claims = {"iss": f"https://{PROJECT_REF}.supabase.co/auth/v1", "sub": account["id"],
                  "email": account["email"], "exp": expires, "iat": int(time.time()),
                  "jti": str(uuid.uuid4()), "app_metadata": {"pad": "x" * self.options.padding}}
        text = encode64(encode({"alg": "HS256", "typ": "JWT"})) + "." + encode64(encode(claims))
        signature = hmac.new(b"stand-in", text.encode("ascii"), hashlib.sha256).digest()
        return text + "." + encode64(signature)

    def account(self, access):
        """The account of a valid access token, or None."""
        row = self.store.get("tokens", access) if isinstance(access, str) else None
        if not row or row["kind"] != "access" or row["dead"] or row["expires"] <= time.time():
            return None
        if self.revoked(self.session_of(access)):
            return None
        return self.store.get("accounts", row["account"])

    def session_of(self, token):
        return self.store.parent("tokens", token)

    def revoked(self, session):
        return self.store.get("sessions", session)["revoked"]

    def refresh(self, token):
        """New tokens for a refresh token, which is spent by this.

        A spent token is refused and, if the option `strict` is set, revokes the whole session.
        """
        row = self.store.get("tokens", token)
        session = self.session_of(token)
        if not row or row["kind"] != "refresh" or row["dead"] \
                or (self.revoked(session) and not row["used"]):
            raise Refusal("INVALID_REFRESH_TOKEN",
                          "Invalid Refresh Token: Refresh Token Not Found", 401)
        if row["used"]:
            if self.options.strict:
                self.close(session)
            raise Refusal("INVALID_REFRESH_TOKEN", "Invalid Refresh Token: Already Used", 401)
        self.store.put("tokens", dict(row, used=True))
        return self.issue(self.store.get("accounts", row["account"]), session)

    def close(self, session):
        self.store.put("sessions", {"id": session, "revoked": True})

    def of(self, email):
        """Iterates over the account's sessions, as pairs of the ID and its tokens."""
        for account in list(self.store.find("accounts")):
            if account["email"] == email:
                for session in list(self.store.find("sessions", account["id"])):
                    yield session["id"], list(self.store.find("tokens", session["id"]))


    def renewed(self, header):
        """The session of a Cookie header after its refresh; None if none is due, or if it fails."""
        session = session_in_cookie(header)
        margin = self.options.library_margin
        if not session or margin is None or session["expires_at"] - time.time() >= margin:
            return None
        try:
            return self.refresh(session["refresh_token"])
        except Refusal:
            return None


def session_cookies(session, is_base64):
    """The cookies of a session as name=value, in chunks if it is long."""
    text = encode(dict(session, token_type="bearer")).decode("utf-8")
    if is_base64:
        text = "base64-" + encode64(text.encode("utf-8"))
    text, name = urllib.parse.quote(text, safe=""), f"sb-{PROJECT_REF}-auth-token"
    if len(text) <= 3180:
        return [f"{name}={text}"]
    # 3 characters of %XX fit, so that no chunk ends within one.
    chunks = re.findall("(?:%..|[^%]){1,1000}", text)
    return [f"{name}.{number}={chunk}" for number, chunk in enumerate(chunks)]


def encode64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def token_in_cookie(header):
    """The access token in a Cookie header, None without a session cookie."""
    session = session_in_cookie(header)
    return session.get("access_token") if isinstance(session, dict) else None


def session_in_cookie(header):
    """The session in a Cookie header, None without a session cookie. Chunks are joined."""
    name = f"sb-{PROJECT_REF}-auth-token"
    cookies = {}
    for part in (header or "").split(";"):
        key, _, value = part.strip().partition("=")
        cookies.setdefault(key, value.strip('"'))
    value = cookies.get(name)
    if value is None:
        chunks = []
        while f"{name}.{len(chunks)}" in cookies:
            chunks.append(cookies[f"{name}.{len(chunks)}"])
        value = "".join(chunks)
    value = urllib.parse.unquote(value)
    try:
        if value.startswith("base64-"):
            value = base64.urlsafe_b64decode(value[7:] + "===").decode("utf-8")
        return json.loads(value)
    except (ValueError, TypeError):
        return None
