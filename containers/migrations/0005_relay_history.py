from django.db import migrations, transaction

MOMENTS = (("relay.ready", "proven_at"), ("relay.removed", "released_at"))


def carry_over(apps, schema_editor):
    """Write what the rows of relays still know of their past into the activity log, from which the history is read."""
    OperationLog = apps.get_model("accounts", "OperationLog")
    Relay = apps.get_model("containers", "Relay")
    # All or nothing, also where a migration itself is not one transaction: killed, it is done anew; done, it is not doubled.
    with transaction.atomic():
        if OperationLog.objects.filter(action__in=[action for action, _column in MOMENTS]).exists():
            return
        relays = Relay.objects.filter(rental__isnull=False).select_related("server__region", "rental")
        past = [
            (getattr(relay, column), action, relay)
            for relay in relays
            for action, column in MOMENTS
            if getattr(relay, column)
        ]
        for at, action, relay in sorted(past, key=lambda event: event[0]):
            entry = OperationLog.objects.create(
                action=action,
                target=str(relay.pk),
                subject_id=relay.rental.user_id,
                detail={
                    "server": relay.server.name,
                    "region_zh": relay.server.region.name_zh,
                    "region_en": relay.server.region.name_en,
                    "address": relay.certificate_address,
                    "derp_port": relay.derp_port,
                    "stun_port": relay.stun_port,
                },
            )
            # The column is filled by itself when a row is made.
            OperationLog.objects.filter(pk=entry.pk).update(at=at)


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_banned_index'),
        ('containers', '0004_gates'),
    ]

    operations = [migrations.RunPython(carry_over, migrations.RunPython.noop)]
