from typing import Any

from django.db import migrations, models


def ask_for_lost_checks(apps: Any, schema_editor: Any) -> None:
    """Servers that wait to be taken into use may have lost the bell of their check; one more harms none of them."""
    apps.get_model("fleet", "Server").objects.filter(status="new").exclude(host_key="").update(
        is_check_due=True
    )


class Migration(migrations.Migration):
    dependencies = [("fleet", "0009_outage_ends")]

    operations = [
        migrations.AddField(
            model_name="server",
            name="is_check_due",
            field=models.BooleanField(default=False, editable=False),
        ),
        migrations.RunPython(ask_for_lost_checks, migrations.RunPython.noop),
    ]
