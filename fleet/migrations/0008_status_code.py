from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0007_outages")]

    operations = [
        migrations.AddField(
            model_name="server",
            name="status_code",
            field=models.CharField(
                blank=True, default="", editable=False, max_length=32, verbose_name="error code"
            ),
        ),
        migrations.AddField(
            model_name="server",
            name="status_values",
            field=models.JSONField(blank=True, default=dict, editable=False),
        ),
    ]
