"""The revisions of the service's tables, one module each, oldest first; Alembic finds them by their folder.

There is no way back to an older one: restore a backup instead.
"""
