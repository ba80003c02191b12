from typing import Any

from django.db import migrations, models
from django.db.models import F


def know_places(apps: Any, schema_editor: Any) -> None:
    """The place of each relay from before: that of its slot, or of a relay in its line of successors that has one."""
    relays = apps.get_model("containers", "Relay").objects
    relays.filter(slot__isnull=False).update(place=F("slot"))
    relays.filter(place=None, return_slot__isnull=False).update(place=F("return_slot"))
    known = dict(relays.filter(place__isnull=False).values_list("pk", "place"))
    steps = list(relays.filter(replaces__isnull=False).order_by("pk").values_list("pk", "replaces_id"))
    found: dict[int, int] = {}
    # Older relays had the place of those that came after them, and those that still come get that of their predecessors.
    for one, other in [*((before, after) for after, before in reversed(steps)), *steps]:
        place = known.get(other)
        if one not in known and place is not None:
            known[one] = found[one] = place
    for place in set(found.values()):
        pks = [pk for pk, its in found.items() if its == place]
        for first in range(0, len(pks), 500):
            relays.filter(pk__in=pks[first : first + 500]).update(place=place)


class Migration(migrations.Migration):
    dependencies = [("containers", "0016_rates")]

    operations = [
        migrations.AddField(
            model_name="relay",
            name="place",
            field=models.PositiveSmallIntegerField(blank=True, editable=False, null=True),
        ),
        migrations.RunPython(know_places, migrations.RunPython.noop),
    ]
