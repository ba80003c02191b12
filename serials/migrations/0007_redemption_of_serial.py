"""The serial number points to its redemption, no longer the other way round, and the redemption says itself that it is unpaid."""

import django.db.models.deletion
from django.db import migrations, models
from django.utils import timezone


def turn(apps, schema_editor):
    serial_number = apps.get_model("serials", "SerialNumber")
    redemption = apps.get_model("serials", "Redemption")
    # Row by row in portions: the databases differ in updates with subqueries, and a stop in the middle may be run again.
    rows = redemption.objects.filter(serial_old__isnull=False).values_list("pk", "serial_old", "serial_old__batch__paid_at")
    for pk, serial, paid_at in rows.iterator(chunk_size=1000):
        serial_number.objects.filter(pk=serial).update(redemption=pk)
        if paid_at is None:
            redemption.objects.filter(pk=pk).update(unpaid_since=timezone.now())


def turn_back(apps, schema_editor):
    serial_number = apps.get_model("serials", "SerialNumber")
    redemption = apps.get_model("serials", "Redemption")
    rows = serial_number.objects.filter(redemption__isnull=False).values_list("pk", "redemption")
    for serial, pk in rows.iterator(chunk_size=1000):
        redemption.objects.filter(pk=pk).update(serial_old=serial)


class Migration(migrations.Migration):

    dependencies = [("fleet", "0009_outage_ends"), ("serials", "0006_device_limit_bound")]

    operations = [
        migrations.AlterField(
            "redemption",
            "serial",
            models.OneToOneField(
                blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="serials.serialnumber"
            ),
        ),
        migrations.RenameField("redemption", "serial", "serial_old"),
        migrations.AddField(
            "redemption",
            "unpaid_since",
            models.DateTimeField(blank=True, editable=False, null=True, verbose_name="unpaid since"),
        ),
        migrations.AddField(
            "serialnumber",
            "redemption",
            models.OneToOneField(
                blank=True,
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="serial",
                to="serials.redemption",
                verbose_name="redemption",
            ),
        ),
        migrations.RunPython(turn, turn_back),
        migrations.RemoveField("redemption", "serial_old"),
        migrations.AlterField(
            "rentalspan",
            "servers",
            models.ManyToManyField(
                blank=True,
                help_text="Relays are placed on these only; at least three, or none for all.",
                related_name="+",
                to="fleet.server",
                verbose_name="bound to servers",
            ),
        ),
    ]
