from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('acl', '0005_owed_cuts'),
    ]

    operations = [
        migrations.RenameField(
            model_name='device',
            old_name='place_until',
            new_name='trial_until',
        ),
        migrations.AlterField(
            model_name='device',
            name='trial_until',
            field=models.DateTimeField(blank=True, db_index=True, null=True, verbose_name='on trial until'),
        ),
        migrations.AddField(
            model_name='device',
            name='stayed_at',
            field=models.DateTimeField(blank=True, null=True, verbose_name='provisional place since'),
        ),
        migrations.AddField(
            model_name='device',
            name='left_at',
            field=models.DateTimeField(blank=True, null=True, verbose_name='gone since'),
        ),
        migrations.AddField(
            model_name='device',
            name='came_from',
            field=models.CharField(blank=True, max_length=43, verbose_name='came from'),
        ),
        migrations.AlterField(
            model_name='admission',
            name='reason',
            field=models.CharField(
                choices=[
                    ('approved', 'approved device'),
                    ('enrolled', 'approved automatically'),
                    ('provisional', 'new device on trial'),
                    ('crowded', 'too many new devices'),
                    ('verify-url', 'known to the own verify address'),
                    ('open', 'device checking is off'),
                    ('unknown', 'unknown device'),
                    ('revoked', 'revoked device'),
                    ('full', 'device limit reached'),
                    ('ended', 'no active rental'),
                    ('barred', 'account banned or closed'),
                ],
                max_length=12,
                verbose_name='reason',
            ),
        ),
    ]
