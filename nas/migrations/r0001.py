"""The first tables.

A revision is what it was when it was released: it does not look at nas/service/schema.py, which goes on.
"""

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKeyConstraint,
    Integer,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)

revision = "0001"
down_revision = None

_OPEN = text("finished_s IS NULL")

# A job that has ended does not change, whoever tries.
_GUARDS = {
    "sqlite": (
        """
        CREATE TRIGGER jobs_ended_stay BEFORE UPDATE ON jobs WHEN OLD.finished_s IS NOT NULL
        BEGIN SELECT RAISE(ABORT, 'a job that has ended does not change'); END
        """,
    ),
    "postgresql": (
        """
        CREATE FUNCTION jobs_ended_stay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'a job that has ended does not change' USING ERRCODE = 'integrity_constraint_violation';
        END $$
        """,
        """
        CREATE TRIGGER jobs_ended_stay BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.finished_s IS NOT NULL)
        EXECUTE FUNCTION jobs_ended_stay()
        """,
    ),
}


def upgrade() -> None:
    _people()
    _jobs()
    _files()
    _devices()
    for statement in _GUARDS[op.get_bind().dialect.name]:
        op.execute(statement)


def _people() -> None:
    op.create_table(
        "users",
        Column("id", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("admin", Boolean, nullable=False),
        Column("max_running", Integer, nullable=False),
        Column("max_queued", Integer, nullable=False),
        Column("created_s", Double, nullable=False),
        PrimaryKeyConstraint("id", name="users_pk"),
        UniqueConstraint("name", name="users_name_key"),
    )
    op.create_table(
        "sessions",
        Column("hash", Text, nullable=False),
        Column("user_id", Text, nullable=False),
        Column("csrf", Text, nullable=False),
        Column("created_s", Double, nullable=False),
        Column("expires_s", Double, nullable=False),
        ForeignKeyConstraint(["user_id"], ["users.id"], name="sessions_user_id_fk"),
        PrimaryKeyConstraint("hash", name="sessions_pk"),
    )
    op.create_index("sessions_user_id_index", "sessions", ["user_id"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        Column("id", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("spec", Text, nullable=False),
        Column("priority", Integer, nullable=False),
        Column("state", Text, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("worker", Text),
        Column("claim", Text),
        Column("lease_expires_s", Double),
        Column("cancel_s", Double),
        Column("not_before_s", Double),
        Column("faults", Integer, nullable=False),
        Column("memory_faults", Integer, nullable=False),
        Column("parent", Text),
        Column("key", Text),
        Column("key_digest", Text),
        Column("created_s", Double, nullable=False),
        Column("started_s", Double),
        Column("finished_s", Double),
        Column("last_seq", Integer, nullable=False),
        Column("logs", Integer, nullable=False),
        Column("progress", Text),
        Column("stages", Text),
        Column("error", Text),
        Column("result", Text),
        CheckConstraint(
            "(finished_s IS NOT NULL) = (state IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))", name="jobs_ended_check"
        ),
        ForeignKeyConstraint(["owner"], ["users.id"], name="jobs_owner_fk"),
        ForeignKeyConstraint(["parent"], ["jobs.id"], name="jobs_parent_fk"),
        PrimaryKeyConstraint("id", name="jobs_pk"),
        UniqueConstraint("owner", "key", name="jobs_owner_key_key"),
    )
    op.create_index("jobs_limit_index", "jobs", ["owner", "state"], sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.create_index(
        "jobs_order_index",
        "jobs",
        [text("priority DESC"), "created_s", "id", "state"],
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.create_index("jobs_owner_index", "jobs", ["owner", "id"])
    op.create_index("jobs_parent_index", "jobs", ["parent"])
    op.create_index("jobs_state_index", "jobs", ["state", "id"])
    op.create_table(
        "events",
        Column("job_id", Text, nullable=False),
        Column("seq", Integer, nullable=False),
        Column("at_s", Double, nullable=False),
        Column("kind", Text, nullable=False),
        Column("data", Text, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("n", Integer),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="events_job_id_fk"),
        PrimaryKeyConstraint("job_id", "seq", name="events_pk"),
        UniqueConstraint("job_id", "epoch", "n", name="events_job_id_epoch_n_key"),
    )
    op.create_table(
        "workers",
        Column("id", Text, nullable=False),
        Column("host", Text, nullable=False),
        Column("pid", Integer, nullable=False),
        Column("started_s", Double, nullable=False),
        Column("seen_s", Double, nullable=False),
        Column("stopped_s", Double),
        PrimaryKeyConstraint("id", name="workers_pk"),
    )


def _files() -> None:
    op.create_table(
        "blobs",
        Column("sha256", Text, nullable=False),
        Column("bytes", BigInteger, nullable=False),
        Column("created_s", Double, nullable=False),
        Column("touched_s", Double, nullable=False),
        PrimaryKeyConstraint("sha256", name="blobs_pk"),
    )
    op.create_table(
        "artefacts",
        Column("job_id", Text, nullable=False),
        Column("path", Text, nullable=False),
        Column("sha256", Text, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("created_s", Double, nullable=False),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="artefacts_job_id_fk"),
        ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name="artefacts_sha256_fk"),
        PrimaryKeyConstraint("job_id", "path", name="artefacts_pk"),
    )
    op.create_index("artefacts_sha256_index", "artefacts", ["sha256"])
    op.create_table(
        "uploads",
        Column("id", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("sha256", Text, nullable=False),
        Column("bytes", BigInteger, nullable=False),
        Column("facts", Text, nullable=False),
        Column("created_s", Double, nullable=False),
        ForeignKeyConstraint(["owner"], ["users.id"], name="uploads_owner_fk"),
        ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name="uploads_sha256_fk"),
        PrimaryKeyConstraint("id", name="uploads_pk"),
    )
    op.create_index("uploads_owner_index", "uploads", ["owner", "id"])
    op.create_index("uploads_sha256_index", "uploads", ["sha256"])


def _devices() -> None:
    op.create_table(
        "devices",
        Column("name", Text, nullable=False),
        Column("created_by", Text, nullable=False),
        Column("created_s", Double, nullable=False),
        Column("seen_s", Double),
        Column("fingerprint", Text),
        Column("offers", Text),
        Column("versions", Text),
        Column("canary", Text),
        Column("revoked_s", Double),
        ForeignKeyConstraint(["created_by"], ["users.id"], name="devices_created_by_fk"),
        PrimaryKeyConstraint("name", name="devices_pk"),
    )
    op.create_table(
        "tokens",
        Column("id", Text, nullable=False),
        Column("user_id", Text),
        Column("device", Text),
        Column("label", Text, nullable=False),
        Column("hash", Text, nullable=False),
        Column("scopes", Text, nullable=False),
        Column("created_s", Double, nullable=False),
        Column("expires_s", Double),
        Column("revoked_s", Double),
        Column("used_s", Double),
        ForeignKeyConstraint(["device"], ["devices.name"], name="tokens_device_fk"),
        ForeignKeyConstraint(["user_id"], ["users.id"], name="tokens_user_id_fk"),
        PrimaryKeyConstraint("id", name="tokens_pk"),
        UniqueConstraint("hash", name="tokens_hash_key"),
    )
    op.create_index("tokens_device_index", "tokens", ["device"])
    op.create_index("tokens_user_id_index", "tokens", ["user_id"])
    op.create_table(
        "enrolments",
        Column("hash", Text, nullable=False),
        Column("device", Text, nullable=False),
        Column("created_by", Text, nullable=False),
        Column("created_s", Double, nullable=False),
        Column("expires_s", Double, nullable=False),
        Column("used_s", Double),
        ForeignKeyConstraint(["created_by"], ["users.id"], name="enrolments_created_by_fk"),
        PrimaryKeyConstraint("hash", name="enrolments_pk"),
    )
    op.create_table(
        "tasks",
        Column("id", Text, nullable=False),
        Column("device", Text, nullable=False),
        Column("job_id", Text),
        Column("owner", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("payload", Text, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("lease_expires_s", Double),
        Column("attempts", Integer, nullable=False),
        Column("created_s", Double, nullable=False),
        Column("started_s", Double),
        Column("finished_s", Double),
        Column("result", Text),
        Column("error", Text),
        ForeignKeyConstraint(["device"], ["devices.name"], name="tasks_device_fk"),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="tasks_job_id_fk"),
        ForeignKeyConstraint(["owner"], ["users.id"], name="tasks_owner_fk"),
        PrimaryKeyConstraint("id", name="tasks_pk"),
        UniqueConstraint("job_id", "key", name="tasks_job_id_key_key"),
    )
    op.create_index("tasks_device_index", "tasks", ["device", "state", "id"])
    op.create_table(
        "rounds",
        Column("task_id", Text, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("n", Integer, nullable=False),
        Column("data", Text, nullable=False),
        Column("created_s", Double, nullable=False),
        ForeignKeyConstraint(["task_id"], ["tasks.id"], name="rounds_task_id_fk"),
        PrimaryKeyConstraint("task_id", "epoch", "n", name="rounds_pk"),
    )
