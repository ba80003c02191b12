from typing import Any

from django.core.management.commands import migrate
from django.db import connections


class Command(migrate.Command):
    """Django's, without the limit of time for an answer: one change of a large table may take MariaDB many minutes."""

    def handle(self, *args: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        limits = connection.settings_dict["OPTIONS"]
        limit = limits.pop("read_timeout", None)
        if limit is None:
            super().handle(*args, **options)
            return
        connection.close()
        try:
            super().handle(*args, **options)
        finally:
            connection.close()
            limits["read_timeout"] = limit
