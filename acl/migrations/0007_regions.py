from itertools import groupby

from django.db import migrations, models


def give_places(apps, schema_editor):
    """Make the region IDs that customers have pasted those of their places; none changes.

    A region goes to the place that its relay has, or comes back to; that of a relay that is gone to a place without one, as the
    next relay would have taken it. One whose relay still stands without a place keeps it (no slot) until it goes.
    """
    MapRegion = apps.get_model('acl', 'MapRegion')
    rows = MapRegion.objects.select_related('relay').only(
        'rental_id', 'region_id', 'slot', 'relay__slot', 'relay__return_slot', 'relay__status'
    )
    for _rental, group in groupby(rows.order_by('rental_id', 'region_id').iterator(), lambda row: row.rental_id):
        regions = list(group)
        taken = set()
        for name in ('slot', 'return_slot'):
            for row in regions:
                slot = row.relay and getattr(row.relay, name)
                if row.slot is None and slot is not None and slot not in taken:
                    row.slot = slot
                    taken.add(slot)
        free = [slot for slot in (1, 2, 3) if slot not in taken]
        for row in regions:
            if row.slot is None and (row.relay is None or row.relay.status == 'released'):
                if not free:
                    row.delete()
                    continue
                row.slot = free.pop(0)
            if row.slot is not None:
                row.save(update_fields=['slot'])


class Migration(migrations.Migration):

    dependencies = [
        ('acl', '0006_trials'),
        ('containers', '0005_relay_history'),
        ('serials', '0005_end_name'),
    ]

    operations = [
        migrations.AddField(
            model_name='mapregion',
            name='changed_at',
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name='mapregion',
            name='slot',
            field=models.PositiveSmallIntegerField(blank=True, null=True, verbose_name='place'),
        ),
        migrations.AddField(
            model_name='aclconfig',
            name='reminded_at',
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.RunPython(give_places, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name='mapregion',
            constraint=models.UniqueConstraint(fields=('rental', 'slot'), name='region_place_once_a_rental'),
        ),
    ]
