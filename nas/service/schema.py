"""All tables of the service. The trial store's (nas/searching/store.py) lie beside them in the same database.

Times are the database's epoch seconds. What stands here must agree with what the revisions in nas/migrations make: the tests
compare the two in both databases.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

# Crockford's base 32: its order is that of the characters, and nothing in it looks like something else.
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


class Json(TypeDecorator[Any]):
    """A column of JSON text, given and taken as plain values; NaN and infinity are refused."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


def new_id(prefix: str) -> str:
    """A new id that sorts by time: the prefix, and 26 characters of 48 bits of milliseconds and 80 random bits."""
    bits = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return prefix + "".join(_DIGITS[bits >> shift & 31] for shift in range(125, -5, -5))


METADATA = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_index",
    }
)

users = Table(
    "users",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("admin", Boolean, nullable=False),
    Column("max_running", Integer, nullable=False),
    Column("max_queued", Integer, nullable=False),
    Column("created_s", Double, nullable=False),
)

tokens = Table(
    "tokens",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("user_id", ForeignKey("users.id"), index=True),
    Column("device", ForeignKey("devices.name"), index=True),
    Column("label", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double),
    Column("revoked_s", Double),
    Column("used_s", Double),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("hash", Text, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("csrf", Text, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
)

jobs = Table(
    "jobs",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("owner", ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("spec", Json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("worker", Text),  # who holds it, or held it last
    Column("claim", Text),  # the id of the claim by which
    Column("lease_expires_s", Double),  # set where, and only where, somebody holds it
    Column("cancel_s", Double),
    Column("not_before_s", Double),  # of a job that waits to be tried again
    Column("faults", Integer, nullable=False),  # infrastructure faults since durable progress
    Column("memory_faults", Integer, nullable=False),
    Column("parent", ForeignKey("jobs.id"), index=True),
    Column("key", Text),
    Column("key_digest", Text),
    Column("created_s", Double, nullable=False),
    Column("started_s", Double),
    Column("finished_s", Double),  # set where, and only where, the state is terminal
    Column("last_seq", Integer, nullable=False),
    Column("logs", Integer, nullable=False),  # log events so far
    Column("progress", Json),
    Column("stages", Json),
    Column("error", Json),
    Column("result", Json),
    UniqueConstraint("owner", "key"),
    Index("jobs_owner_index", "owner", "id"),
    Index("jobs_state_index", "state", "id"),
    CheckConstraint(
        "(finished_s IS NOT NULL) = (state IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))", name="jobs_ended_check"
    ),
)
# Claims, positions and limits look at jobs that have not ended and at no others, however many there are.
OPEN = jobs.c.finished_s.is_(None)
Index(
    "jobs_order_index",
    jobs.c.priority.desc(),
    jobs.c.created_s,
    jobs.c.id,
    jobs.c.state,
    sqlite_where=OPEN,
    postgresql_where=OPEN,
)
Index("jobs_limit_index", jobs.c.owner, jobs.c.state, sqlite_where=OPEN, postgresql_where=OPEN)

events = Table(
    "events",
    METADATA,
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("data", Json, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("n", Integer),  # the holder's own number; none where the job store wrote it
    PrimaryKeyConstraint("job_id", "seq"),
    UniqueConstraint("job_id", "epoch", "n"),
)

blobs = Table(
    "blobs",
    METADATA,
    Column("sha256", Text, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("touched_s", Double, nullable=False),
)

artefacts = Table(
    "artefacts",
    METADATA,
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", ForeignKey("blobs.sha256"), nullable=False, index=True),
    Column("epoch", Integer, nullable=False),
    Column("created_s", Double, nullable=False),
    PrimaryKeyConstraint("job_id", "path"),
)

uploads = Table(
    "uploads",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("owner", ForeignKey("users.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("sha256", ForeignKey("blobs.sha256"), nullable=False, index=True),
    Column("bytes", BigInteger, nullable=False),
    Column("facts", Json, nullable=False),
    Column("created_s", Double, nullable=False),
    Index("uploads_owner_index", "owner", "id"),
)

devices = Table(
    "devices",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("created_by", ForeignKey("users.id"), nullable=False),
    Column("created_s", Double, nullable=False),
    Column("seen_s", Double),
    Column("fingerprint", Json),
    Column("offers", Json),
    Column("versions", Json),
    Column("canary", Json),
    Column("revoked_s", Double),
)

enrolments = Table(
    "enrolments",
    METADATA,
    Column("hash", Text, primary_key=True),
    Column("device", Text, nullable=False),  # which is made when the code is used
    Column("created_by", ForeignKey("users.id"), nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Column("used_s", Double),
)

tasks = Table(
    "tasks",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("device", ForeignKey("devices.name"), nullable=False),
    Column("job_id", ForeignKey("jobs.id")),
    Column("owner", ForeignKey("users.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("payload", Json, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("lease_expires_s", Double),
    Column("attempts", Integer, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("started_s", Double),
    Column("finished_s", Double),
    Column("result", Json),
    Column("error", Json),
    UniqueConstraint("job_id", "key"),
    Index("tasks_device_index", "device", "state", "id"),
)

rounds = Table(
    "rounds",
    METADATA,
    Column("task_id", ForeignKey("tasks.id"), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("n", Integer, nullable=False),
    Column("data", Json, nullable=False),
    Column("created_s", Double, nullable=False),
    PrimaryKeyConstraint("task_id", "epoch", "n"),
)

workers = Table(
    "workers",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_s", Double, nullable=False),
    Column("seen_s", Double, nullable=False),
    Column("stopped_s", Double),
)
