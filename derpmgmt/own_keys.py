"""Whether the panel's keys are those of its database: asked at every start and before every command that may need them."""

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError
from django.utils.translation import gettext as _

from derpmgmt.lib import env
from derpmgmt.lib.crypto import DecryptionFailed, EncryptedTextField
from derpmgmt.models import foreign_keys_given
from serials.numbers.models import SerialNumber
from serials.numbers.services.batches import code_hash

# These neither read nor write a secret, or they ask themselves once the database is up to date.
_WITHOUT_KEYS = frozenset(
    [
        "check",
        "collectstatic",
        "compilemessages",
        "demo",
        "diffsettings",
        "findstatic",
        "help",
        "image_build",
        "makemessages",
        "makemigrations",
        "migrate",
        "showmigrations",
        "sqlmigrate",
        "test",
        "up",
        "version",
    ]
)


class ForeignKeys(ImproperlyConfigured):
    """Keys were given that are not those of the database; the text names them."""


def check_keys() -> None:
    """Raises `ForeignKeys` when the keys are not those of the database: by a few stored secrets of every kind, by a few serial
    numbers that must be found by their hash, and by the fingerprints of every key that was in use."""
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if not isinstance(field, EncryptedTextField):
                continue
            try:
                list(model._default_manager.order_by("-pk").values_list(field.name, flat=True)[:5])
            except DecryptionFailed as error:
                raise _foreign("fields") from error
    serials = SerialNumber.objects.order_by("-pk").values_list("code", "code_hash")[:5]
    if any(code and code_hash(code) != found_by for code, found_by in serials):
        raise _foreign("lookup")
    if names := foreign_keys_given():
        raise _foreign(*names)


def check_keys_for(argv: list[str]) -> None:
    """As `check_keys`, before the command of this command line; nothing where it needs no keys, or the database is not ready.

    A command that cannot go on without the database says so itself.
    """
    if len(argv) < 2 or argv[1] in _WITHOUT_KEYS or {"-h", "--help", "--version"} & set(argv[1:]):
        return
    try:
        check_keys()
    except DatabaseError:
        return


def _foreign(*names: str) -> ForeignKeys:
    text = _("These keys in %(folder)s are not those of this database: %(names)s. %(restore)s")
    values = {"folder": settings.VAR_DIR / "keys", "names": ", ".join(names), "restore": env.restore()}
    return ForeignKeys(text % values)
