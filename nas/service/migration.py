"""Bringing the tables up to date: what `Database.upgrade` does within its transaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

import nas.migrations
from nas.database import VERSIONS
from nas.service.errors import SchemaError
from nas.service.schema import METADATA


def upgrade(connection: Connection, name: str) -> None:
    """Run the revisions that the database has not had. Raises `SchemaError` where it has one that is not known here."""
    folder = str(Path(nas.migrations.__file__).parent)
    scripts = ScriptDirectory(folder, version_locations=[folder])
    known = {script.revision for script in scripts.walk_revisions()}

    def steps(current: Any, _: object) -> list[Any]:
        if unknown := set(current) - known:
            raise SchemaError(
                f"{name}: was written by a newer version (schema {min(unknown)}; this one knows {max(known)})"
            )
        if not current and (taken := METADATA.tables.keys() & set(inspect(connection).get_table_names())):
            raise SchemaError(
                f"{name}: has tables of something else ({', '.join(sorted(taken))}); name an empty database"
            )
        return scripts._upgrade_revs("head", current)

    with EnvironmentContext(Config(), scripts, fn=steps, as_sql=False) as environment:
        environment.configure(connection=connection, version_table=VERSIONS)
        environment.run_migrations()
