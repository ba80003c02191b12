"""What the project as a whole keeps."""

from django.conf import settings
from django.db import models
from django.utils import timezone

from derpmgmt.lib.crypto import keyed_hash


class KeyFingerprint(models.Model):
    """By which the panel knows at every start that its keys are those of its database; nothing of a key can be read from it.

    One for each key that was ever in use; `name` is that of its file in `var/keys`.
    """

    name = models.CharField(max_length=16)
    fingerprint = models.CharField(max_length=64)
    seen_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "fingerprint"], name="key_fingerprint_once")]

    def __str__(self) -> str:
        return self.name


def foreign_keys_given() -> list[str]:
    """The names of the keys that are not those the database was made with; writes down what it did not know yet.

    Where several may be given (`fields`, `django`), one that is known is enough: so a newer one comes in. All are hashed under the
    look-up key, so when that is foreign nothing can be said of the others. Writes nothing when any is foreign.
    """
    given = {
        "lookup": [settings.LOOKUP_KEY],
        "panel_id": [settings.PANEL_ID],
        "fields": list(settings.FIELD_KEYS),
        "django": [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS],
    }
    known: dict[str, set[str]] = {}
    for name, fingerprint in KeyFingerprint.objects.values_list("name", "fingerprint"):
        known.setdefault(name, set()).add(fingerprint)
    found = {
        name: [keyed_hash("key", f"{name}\0{value}") for value in values] for name, values in given.items()
    }
    foreign = [name for name in given if name in known and known[name].isdisjoint(found[name])]
    if "lookup" in foreign:
        return ["lookup"]
    if not foreign:
        for name, fingerprints in found.items():
            for fingerprint in set(fingerprints) - known.get(name, set()):
                KeyFingerprint.objects.get_or_create(name=name, fingerprint=fingerprint)
    return foreign
