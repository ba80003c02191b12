import tempfile
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.image import DERPER_VERSION, ImageError, compile_derper
from containers.services.images import install_image
from derpmgmt.lib.commands import PanelCommand


class Command(PanelCommand):
    """Make the relay image that the panel loads onto its servers."""

    help: Any = gettext_lazy(
        "Make the relay image: from a derper binary (--derper FILE), or from its Go module where Go is installed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--derper", type=Path, help=_("a statically linked derper for Linux"))

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="derpmgmt-image-") as work:
                derper = options["derper"]
                if derper is None:
                    self.say(
                        _("Building derper %(version)s with Go; the first time takes minutes …")
                        % {"version": DERPER_VERSION}
                    )
                    derper = compile_derper(Path(work))
                archive = install_image(derper=derper)
        except ImageError as error:
            raise CommandError(str(error)) from error
        self.emit_one(
            {
                "tag": archive.tag,
                "path": str(archive.path),
                "size_bytes": archive.size,
                "size": f"{archive.size / 1e6:.1f} MB",
                "architecture": archive.architecture,
            },
            {"tag": _("Image"), "path": _("File"), "size": _("Size"), "architecture": _("Architecture")},
        )
