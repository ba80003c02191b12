"""`manage.py doctor`: what is wrong with this installation, in words."""

import sys
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt import doctor
from derpmgmt.lib.commands import PanelCommand
from derpmgmt.lib.matters import CRITICAL, INFORMATION, WARNING

_MARKS = {CRITICAL: "✗", WARNING: "!", INFORMATION: "i", doctor.GOOD: "✓"}


class Command(PanelCommand):
    """Look at everything the panel needs; the exit code says how bad it is."""

    help: Any = gettext_lazy(
        "Say what is wrong with this installation: settings, database, Redis, workers, mail, disk, servers. "
        "Exits with 0 when nothing is, 1 for warnings, 2 for what must be mended now."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--quiet", action="store_true", help=_("leave out what is well"))

    def handle(self, *args: Any, **options: Any) -> None:
        findings = doctor.examine()
        shown = [each for each in findings if each.level != doctor.GOOD or not options["quiet"]]
        if self.as_json:
            self._dump([each.to_json() for each in shown])
        else:
            for each in shown:
                self.stdout.write(f"{_MARKS[each.level]} {each.title}")
                if each.text:
                    self.stdout.write(f"  {each.text}")
            bad = sum(each.level in {CRITICAL, WARNING} for each in findings)
            if not bad:
                self.stdout.write(_("Nothing is wrong."))
        code = doctor.exit_code(findings)
        if code:
            sys.exit(code)
