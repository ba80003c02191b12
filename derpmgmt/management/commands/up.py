import os
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt.lib.commands import TranslatedCommand
from derpmgmt.panel import CannotStart, Panel


class Command(TranslatedCommand):
    """The whole panel on this machine."""

    help: Any = gettext_lazy(
        "Runs the whole panel on this machine: web server, workers and, unless one is given, Valkey."
    )
    requires_system_checks = []
    panel_class: type[Panel] = Panel

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--with-parent", action="store_true", help=_("end when the process that started this one is gone")
        )

    def handle(self, *args: Any, with_parent: bool, **options: Any) -> None:
        panel = self.panel_class(self._say, parent=os.getppid() if with_parent else None)
        try:
            panel.run()
        except CannotStart as error:
            raise CommandError(str(error)) from error

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
