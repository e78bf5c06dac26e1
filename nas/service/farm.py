"""The enrolled machines that measure for the service: how one becomes one, and how they stand."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, case, func, select, update

from latency_tables.device import NAME, Fingerprint
from latency_tables.offers import Offers
from nas.agent.wire import About, offers_json, offers_of
from nas.database import Database, clock, insert
from nas.service.errors import NotFound, ServiceError
from nas.service.people import hash_of
from nas.service.schema import devices, enrolments, new_id, tasks, tokens
from nas.service.tasks import OPEN, Tasks, end_all

Json = Any

ONLINE_S = 90.0
"""A machine that was heard of this long ago is online: its requests are 25 s apart at most."""
CODE_S = 3600.0
CODE_BYTES = 20
LONGEST_NAME = 64


class FarmError(ServiceError):
    """A name of a machine that cannot be."""


@dataclass(frozen=True, slots=True)
class Canary:
    """How fast the fixed small network was while a machine measured, under the settings of that device."""

    at_s: float
    settings: str
    reference_us: float
    task: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One machine: what it is, whether it is there, and what it has to do."""

    name: str
    created_s: float
    seen_s: float | None
    online: bool
    revoked: bool
    fingerprint: Fingerprint
    offers: Offers
    needs: tuple[str, ...]
    """What it can tell of a network beside its times."""
    versions: dict[str, str]
    queued: int
    running: int
    canaries: tuple[Canary, ...]
    """The last ones, the newest at the end."""

    def to_json(self) -> dict[str, Json]:
        names = ("name", "created_s", "seen_s", "online", "revoked", "versions", "queued", "running")
        return {
            **{name: getattr(self, name) for name in names},
            "fingerprint": self.fingerprint.to_json(),
            "offers": offers_json(self.offers, self.needs),
            "canaries": [
                {"at_s": each.at_s, "settings": each.settings, "reference_us": each.reference_us, "task": each.task}
                for each in self.canaries
            ],
        }


class Farm:
    """The machines, in the service's database, and their tasks."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.tasks = Tasks(db)

    def enrolment(self, name: str, created_by: str) -> tuple[str, float]:
        """A code with which one machine can become `name` within an hour, and when it ends. It is told here and never again.

        The name may be there already: its next machine takes the place of the one before.
        """
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise FarmError(
                f"a machine's name is 1-{LONGEST_NAME} small letters, digits, '_', '.', '-' and begins with one of the "
                f"first two, not {name[:80]!r}"
            )
        code = base64.b32encode(secrets.token_bytes(CODE_BYTES)).decode().lower()
        values = {
            "hash": hash_of(code),
            "device": name,
            "created_by": created_by,
            "created_s": clock(),
            "expires_s": clock() + CODE_S,
        }

        def work(connection: Connection) -> float:
            connection.execute(insert(connection, enrolments).values(values).on_conflict_do_nothing())
            query = select(enrolments.c.expires_s).where(enrolments.c.hash == hash_of(code))
            return float(connection.execute(query).scalar_one())

        return code, self._db.write(work)

    def enrol(self, code: str, nonce: str, about: About) -> tuple[str, str]:
        """Use a code up; the machine's name and its token, with which earlier tokens of that name end.

        The same code with the same nonce gives the same token again, so that a lost answer can be asked for once more:
        the token is made from both, and neither is kept. `NotFound` for any other code.
        """
        mine = enrolments.c.hash == hash_of(code)
        # Read first: anybody can try, and must not make those wait who write.
        if self._db.read(lambda connection: connection.execute(select(enrolments.c.hash).where(mine)).first()) is None:
            raise _bad_code()
        secret, token_id = _token_of(code, nonce), new_id("k")

        def work(connection: Connection) -> str:
            good = (enrolments.c.expires_s > clock()) & enrolments.c.used_s.is_(None)
            row = connection.execute(select(enrolments, good.label("good")).where(mine).with_for_update()).one()
            if row.good:
                connection.execute(update(enrolments).where(mine).values(used_s=clock()))
                self._settle(connection, row.device, row.created_by, about)
                _add_token(connection, token_id, row.device, secret)
            elif not _is_token(connection, secret):
                raise _bad_code()
            return str(row.device)

        return self._db.write(work), secret

    def hello(self, name: str, about: About) -> None:
        """A machine's agent has started."""
        values = {**about.to_json(), "seen_s": clock()}
        self._db.write(
            lambda connection: connection.execute(update(devices).where(devices.c.name == name).values(values))
        )

    def revoke(self, name: str) -> None:
        """Remove a machine: its tokens end at once, and its open tasks fail. `NotFound`."""
        self.device(name)
        mine = devices.c.name == name, devices.c.revoked_s.is_(None)

        def work(connection: Connection) -> None:
            connection.execute(update(devices).where(*mine).values(revoked_s=clock()))
            _end_tokens(connection, name)
            end_all(connection, name, f"the machine {name} was removed from the service")

        self._db.write(work)

    def devices(self) -> list[Enrolled]:
        """All machines, by name; removed ones are left out."""
        return self._enrolled(devices.c.revoked_s.is_(None))

    def device(self, name: str) -> Enrolled:
        """One machine, removed or not. `NotFound`."""
        found = self._enrolled(devices.c.name == name) if NAME.fullmatch(name) else []
        if not found:
            raise _unknown(name)
        return found[0]

    def _enrolled(self, which: ColumnElement[bool]) -> list[Enrolled]:
        counts = (
            select(
                tasks.c.device,
                func.sum(case((tasks.c.state == "QUEUED", 1), else_=0)).label("queued"),
                func.sum(case((tasks.c.state == "RUNNING", 1), else_=0)).label("running"),
            )
            .where(tasks.c.state.in_(OPEN))
            .group_by(tasks.c.device)
            .subquery()
        )
        query = (
            select(devices, counts.c.queued, counts.c.running, (clock() - devices.c.seen_s).label("silent_s"))
            .outerjoin(counts, counts.c.device == devices.c.name)
            .where(which)
            .order_by(devices.c.name)
        )
        return [_one(row) for row in self._db.read(lambda connection: connection.execute(query).mappings().all())]

    def _settle(self, connection: Connection, name: str, created_by: str, about: About) -> None:
        """The machine of this name is the one that asks, from now on."""
        values = {**about.to_json(), "seen_s": clock(), "revoked_s": None}
        new = {"name": name, "created_by": created_by, "created_s": clock(), **values}
        made = insert(connection, devices).values(new)
        connection.execute(made.on_conflict_do_update(index_elements=["name"], set_=values))
        _end_tokens(connection, name)


def _token_of(code: str, nonce: str) -> str:
    """A token of 256 bits that only who knows the code and the nonce can make."""
    made = hashlib.sha256(f"nas agent {code} {nonce}".encode()).digest()
    return f"nas_{base64.urlsafe_b64encode(made).decode().rstrip('=')}"


def _add_token(connection: Connection, token_id: str, device: str, secret: str) -> None:
    values = {
        "id": token_id,
        "device": device,
        "label": f"machine {device}",
        "hash": hash_of(secret),
        "scopes": [f"agent:{device}"],
        "created_s": clock(),
    }
    connection.execute(insert(connection, tokens).values(values))


def _is_token(connection: Connection, secret: str) -> bool:
    found = select(tokens.c.id).where(tokens.c.hash == hash_of(secret), tokens.c.revoked_s.is_(None))
    return connection.execute(found).first() is not None


def _end_tokens(connection: Connection, name: str) -> None:
    mine = tokens.c.device == name, tokens.c.revoked_s.is_(None)
    connection.execute(update(tokens).where(*mine).values(revoked_s=clock()))


def _bad_code() -> NotFound:
    return NotFound("the code is unknown, used up or older than an hour; make another: nas devices enrol NAME")


def _unknown(name: str) -> NotFound:
    return NotFound(f"no machine {name[:80]!r} is enrolled")


def _one(row: RowMapping) -> Enrolled:
    silent_s = row["silent_s"]
    offers, needs = offers_of(row["offers"])
    return Enrolled(
        row["name"],
        row["created_s"],
        row["seen_s"],
        row["revoked_s"] is None and silent_s is not None and silent_s <= ONLINE_S,
        row["revoked_s"] is not None,
        Fingerprint.from_json(row["fingerprint"]),
        offers,
        needs,
        row["versions"],
        row["queued"] or 0,
        row["running"] or 0,
        _canaries((row["canary"] or {}).get("history", [])),
    )


def _canaries(history: Sequence[Json]) -> tuple[Canary, ...]:
    return tuple(Canary(each["at_s"], each["settings"], each["reference_us"], each["task"]) for each in history)
