import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.db import DatabaseError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.gate_image import find_nginx
from containers.image import DERPER_VERSION, MACHINES, ImageArchive, compile_derper
from containers.services import gates
from containers.services.images import install_gate_image, install_image
from derpmgmt.lib.commands import PanelCommand


class Command(PanelCommand):
    """Make the images that the panel loads onto its servers."""

    help: Any = gettext_lazy(
        "Make the images of relays and gates: relays' from a derper binary (--derper FILE), or from its Go module where Go "
        "is installed; gates' from this machine's nginx, another one (--nginx FILE), or an archive made elsewhere "
        "(--gate-archive FILE)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--only", choices=("relay", "gate"), help=_("make only this one of the two"))
        parser.add_argument("--derper", type=Path, help=_("a statically linked derper for Linux"))
        parser.add_argument(
            "--architecture",
            choices=sorted(MACHINES.values()),
            default="amd64",
            help=_(
                "for which servers derper is built, where no file is given (amd64); images for several are kept side by side"
            ),
        )
        gate = parser.add_mutually_exclusive_group()
        gate.add_argument("--nginx", type=Path, help=_("an nginx that runs on this machine"))
        gate.add_argument(
            "--gate-archive", type=Path, help=_("a gate's image that image_build made on another machine")
        )

    def handle(self, *args: Any, **options: Any) -> None:
        made: list[tuple[str, ImageArchive]] = []
        # The gate first: what may be missing for it is known before derper is built for minutes.
        if options["only"] != "relay":
            archive, nginx = options["gate_archive"], options["nginx"]
            if archive is None and nginx is None:
                nginx = find_nginx()
            made.append(("gate", install_gate_image(nginx=nginx, archive=archive)))
        if options["only"] != "gate":
            made.append(("relay", self._make_relay(options["derper"], options["architecture"])))
        with suppress(DatabaseError):  # images may be made before there is a panel
            gates.wake_imageless()
        names = {"relay": _("relay"), "gate": _("gate")}
        rows = [
            {
                "kind": kind,
                "name": names[kind],
                "tag": archive.tag,
                "path": str(archive.path),
                "size_bytes": archive.size,
                "size": f"{archive.size / 1e6:.1f} MB",
                "architecture": archive.architecture,
            }
            for kind, archive in made
        ]
        self.emit(
            rows,
            {
                "name": _("For"),
                "tag": _("Image"),
                "path": _("File"),
                "size": _("Size"),
                "architecture": _("Architecture"),
            },
        )

    def _make_relay(self, derper: Path | None, architecture: str) -> ImageArchive:
        with tempfile.TemporaryDirectory(prefix="derpmgmt-image-") as work:
            if derper is None:
                self.say(
                    _("Building derper %(version)s with Go; the first time takes minutes …")
                    % {"version": DERPER_VERSION}
                )
                derper = compile_derper(Path(work), architecture=architecture)
            return install_image(derper=derper)
