"""Who may use the service: users, the tokens that they and their programs show, and the sessions of the page.

A secret is 256 random bits, is shown once and is stored as its SHA-256: what the database holds lets nobody in.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, delete, or_, select, update

from nas.database import Database, clock, insert
from nas.service.errors import Conflict, NotFound, ServiceError
from nas.service.schema import new_id, sessions, tokens, users

SCOPES = ("jobs", "models", "devices-admin", "metrics")
"""What a token of a user may be good for: jobs; uploads and artefacts; enrolling machines; reading /metrics."""
OF_EVERYBODY = ("jobs", "models")
LOGIN = "login"
"""The one scope of a code that opens one session of the page."""
CODE_S = 600.0
SESSION_S = 7 * 86400.0
LIMITS = {"max_running": 4, "max_queued": 1000}
"""Of a new user: jobs that run side by side, and jobs that are not ended."""
LONGEST_LABEL = 200

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SECRET = re.compile(r"nas_[A-Za-z0-9_-]{43}")


class PeopleError(ServiceError):
    """A user, a token or a name that cannot be."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who submits jobs. An admin sees everybody's."""

    id: str
    name: str
    admin: bool
    max_running: int
    max_queued: int
    created_s: float


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token without its secret: whose it is, what it is good for, until when."""

    id: str
    user_id: str | None
    device: str | None
    label: str
    scopes: tuple[str, ...]
    created_s: float
    expires_s: float | None
    revoked_s: float | None
    used_s: float | None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a user with what the token or the session allows, or an enrolled machine."""

    user_id: str | None
    name: str
    admin: bool
    scopes: tuple[str, ...]
    device: str | None = None
    csrf: str | None = None
    """The session's own secret against forged forms; None for tokens, which no browser sends by itself."""

    @property
    def owner(self) -> str | None:
        """Whose rows are looked at: the user's own; None, which is everybody's, for an admin."""
        if self.user_id is None:
            raise PeopleError("a machine owns nothing; ask with the token of a user")
        return None if self.admin else self.user_id


class People:
    """Users, tokens and sessions in the service's database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, name: str, *, admin: bool = False) -> User:
        """A new user. `Conflict` when the name is taken."""
        if not _NAME.fullmatch(name):
            raise PeopleError(f"a user's name is 1-64 letters, digits, '.', '_', '@' and '-', not {name[:80]!r}")
        user_id = new_id("p")

        def work(connection: Connection) -> User:
            found = connection.execute(select(users).where(users.c.name == name)).mappings().first()
            if found is not None and found["id"] != user_id:
                raise Conflict(f"there is a user {name!r} already")
            if found is None:
                values = {"id": user_id, "name": name, "admin": admin, "created_s": clock()}
                connection.execute(insert(connection, users).values({**values, **LIMITS}))
                found = connection.execute(select(users).where(users.c.id == user_id)).mappings().one()
            return _user(found)

        return self._db.write(work)

    def all(self) -> list[User]:
        """All users, by name."""
        rows = self._db.read(
            lambda connection: connection.execute(select(users).order_by(users.c.name)).mappings().all()
        )
        return [_user(row) for row in rows]

    def named(self, name: str) -> User:
        """The user of a name; `NotFound`."""
        query = select(users).where(users.c.name == name)
        row = self._db.read(lambda connection: connection.execute(query).mappings().first())
        if row is None:
            raise NotFound(f"there is no user {name[:80]!r}; add one with `nas users add NAME`")
        return _user(row)

    def limit(self, name: str, max_running: int | None = None, max_queued: int | None = None) -> User:
        """Say how many jobs of a user run side by side, and how many may not have ended; None leaves a limit as it is."""
        given = {"max_running": max_running, "max_queued": max_queued}
        limits = {key: count for key, count in given.items() if count is not None}
        if any(count < 0 for count in limits.values()):
            raise PeopleError("a limit is a number of jobs, 0 at least")
        if limits:
            changed = update(users).where(users.c.name == name).values(limits)
            self._db.write(lambda connection: connection.execute(changed))
        return self.named(name)

    def names(self) -> dict[str, str]:
        """User id -> name."""
        query = select(users.c.id, users.c.name)
        return {row.id: row.name for row in self._db.read(lambda connection: connection.execute(query).all())}

    def issue(
        self, user: User, scopes: Sequence[str], label: str = "", lifetime_s: float | None = None
    ) -> tuple[Token, str]:
        """A new token of a user, and its secret, which is told here and never again."""
        for scope in scopes:
            if scope not in SCOPES:
                raise PeopleError(f"unknown scope {scope[:80]!r}; known are {', '.join(SCOPES)}")
        if not scopes:
            raise PeopleError(f"a token needs a scope: {', '.join(SCOPES)}")
        if len(label) > LONGEST_LABEL or not label.isprintable():
            raise PeopleError(f"a label is {LONGEST_LABEL} printable characters at most")
        return self._issued(user.id, tuple(dict.fromkeys(scopes)), label, lifetime_s)

    def login_code(self, user: User) -> str:
        """A secret that opens one session within ten minutes: for a link that can be shown on a terminal."""
        return self._issued(user.id, (LOGIN,), "one-time login", CODE_S)[1]

    def tokens(self, user_id: str | None = None) -> list[Token]:
        """Tokens of a user, or all; the oldest first. Login codes are none."""
        query = select(tokens).order_by(tokens.c.id)
        if user_id is not None:
            query = query.where(tokens.c.user_id == user_id)
        rows = self._db.read(lambda connection: connection.execute(query).mappings().all())
        return [token for token in map(_token, rows) if token.scopes != (LOGIN,)]

    def token(self, token_id: str) -> Token:
        """A token by its id; `NotFound`."""
        query = select(tokens).where(tokens.c.id == token_id)
        row = self._db.read(lambda connection: connection.execute(query).mappings().first())
        if row is None:
            raise NotFound(f"there is no token {token_id[:80]!r}")
        return _token(row)

    def revoke(self, token_id: str, owner: str | None = None) -> Token:
        """End a token, and every session of its user; a revoked one stays as it is. `NotFound`, also for another's."""
        mine = tokens.c.id == token_id if owner is None else and_(tokens.c.id == token_id, tokens.c.user_id == owner)

        def work(connection: Connection) -> None:
            connection.execute(update(tokens).where(mine, tokens.c.revoked_s.is_(None)).values(revoked_s=clock()))
            row = connection.execute(select(tokens.c.user_id).where(mine)).first()
            if row is None:
                raise NotFound(f"there is no token {token_id[:80]!r}")
            # The page was perhaps entered with this token: whoever has stolen it must be out of there as well.
            if row.user_id is not None:
                connection.execute(delete(sessions).where(sessions.c.user_id == row.user_id))

        self._db.write(work)
        return self.token(token_id)

    def holder(self, secret: str) -> Principal | None:
        """Whom a token's secret stands for; None where it is unknown, expired or revoked."""
        if not _SECRET.fullmatch(secret):
            return None
        query = (
            select(tokens.c.hash, tokens.c.scopes, tokens.c.device, users.c.id, users.c.name, users.c.admin)
            .select_from(tokens.outerjoin(users, users.c.id == tokens.c.user_id))
            .where(tokens.c.hash == hash_of(secret), *_alive())
        )
        row = self._db.read(lambda connection: connection.execute(query).first())
        if row is None or not secrets.compare_digest(row.hash, hash_of(secret)):
            return None
        scopes = tuple(row.scopes)
        if row.device is not None:
            return Principal(None, row.device, False, scopes, device=row.device)
        return None if scopes == (LOGIN,) else Principal(row.id, row.name, bool(row.admin), scopes)

    def touch(self, secret: str) -> None:
        """Note that a token was used, to the minute."""
        stale = or_(tokens.c.used_s.is_(None), tokens.c.used_s < clock() - 60.0)
        query = update(tokens).where(tokens.c.hash == hash_of(secret), stale).values(used_s=clock())
        self._db.write(lambda connection: connection.execute(query))

    def open_session(self, secret: str) -> tuple[str, Principal] | None:
        """A session of the page for who shows a login code or a token, with its secret; None where neither is good.

        A session may all that its user may, so a token must too: `PeopleError` for a narrower one. A code is used up.
        """
        if not _SECRET.fullmatch(secret):
            return None
        key, csrf = new_secret(), secrets.token_urlsafe(32)

        def work(connection: Connection) -> RowMapping | None:
            query = (
                select(users, tokens.c.id.label("token_id"), tokens.c.scopes, tokens.c.used_s)
                .select_from(tokens.join(users, users.c.id == tokens.c.user_id))
                .where(tokens.c.hash == hash_of(secret), *_alive())
            )
            row = connection.execute(query).mappings().first()
            again = select(sessions.c.hash).where(sessions.c.hash == hash_of(key))
            if row is None or connection.execute(again).first() is not None:
                return row
            scopes = tuple(row["scopes"])
            if scopes == (LOGIN,):
                if row["used_s"] is not None:
                    return None
                connection.execute(update(tokens).where(tokens.c.id == row["token_id"]).values(used_s=clock()))
            elif missing := [scope for scope in scopes_of(bool(row["admin"])) if scope not in scopes]:
                raise PeopleError(f"this token cannot enter the page: it lacks the scope {missing[0]!r}")
            values = {"hash": hash_of(key), "user_id": row["id"], "csrf": csrf, "created_s": clock()}
            connection.execute(insert(connection, sessions).values({**values, "expires_s": clock() + SESSION_S}))
            return row

        row = self._db.write(work)
        if row is None:
            return None
        admin = bool(row["admin"])
        return key, Principal(row["id"], row["name"], admin, scopes_of(admin), csrf=csrf)

    def in_session(self, key: str) -> Principal | None:
        """Whose session this is; None where there is none, or it is over."""
        if not _SECRET.fullmatch(key):
            return None
        query = (
            select(users.c.id, users.c.name, users.c.admin, sessions.c.csrf)
            .select_from(sessions.join(users, users.c.id == sessions.c.user_id))
            .where(sessions.c.hash == hash_of(key), sessions.c.expires_s > clock())
        )
        row = self._db.read(lambda connection: connection.execute(query).first())
        if row is None:
            return None
        admin = bool(row.admin)
        return Principal(row.id, row.name, admin, scopes_of(admin), csrf=row.csrf)

    def close_session(self, key: str) -> None:
        """End a session, and forget those that have expired."""
        over = or_(sessions.c.hash == hash_of(key), sessions.c.expires_s <= clock())
        self._db.write(lambda connection: connection.execute(delete(sessions).where(over)))

    def _issued(self, user_id: str, scopes: tuple[str, ...], label: str, lifetime_s: float | None) -> tuple[Token, str]:
        token_id, secret = new_id("k"), new_secret()
        values: dict[str, Any] = {
            "id": token_id,
            "user_id": user_id,
            "label": label,
            "hash": hash_of(secret),
            "scopes": list(scopes),
            "created_s": clock(),
            "expires_s": None if lifetime_s is None else clock() + lifetime_s,
        }

        def work(connection: Connection) -> None:
            connection.execute(insert(connection, tokens).values(values).on_conflict_do_nothing())

        self._db.write(work)
        return self.token(token_id), secret


def new_secret() -> str:
    """256 random bits behind a prefix by which a leaked one can be recognised."""
    return f"nas_{secrets.token_urlsafe(32)}"


def hash_of(secret: str) -> str:
    """What is stored of a secret. It is random, so a plain digest cannot be searched for it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def scopes_of(admin: bool) -> tuple[str, ...]:
    """What a user may do on the page."""
    return SCOPES if admin else OF_EVERYBODY


def _alive() -> tuple[Any, ...]:
    return tokens.c.revoked_s.is_(None), or_(tokens.c.expires_s.is_(None), tokens.c.expires_s > clock())


def _user(row: RowMapping) -> User:
    values: dict[str, Any] = {name: row[name] for name in User.__dataclass_fields__}
    return User(**{**values, "admin": bool(row["admin"])})


def _token(row: RowMapping) -> Token:
    values: dict[str, Any] = {name: row[name] for name in Token.__dataclass_fields__}
    return Token(**{**values, "scopes": tuple(row["scopes"])})
