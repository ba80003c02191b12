"""The regions that mainland China's cloud providers offer most, so that a new panel need not begin by typing them."""

from django.db import migrations

REGIONS = [
    ("bj", "北京", "Beijing", 39.90, 116.40),
    ("sh", "上海", "Shanghai", 31.23, 121.47),
    ("gz", "广州", "Guangzhou", 23.13, 113.26),
    ("sz", "深圳", "Shenzhen", 22.54, 114.06),
    ("hz", "杭州", "Hangzhou", 30.27, 120.16),
    ("nj", "南京", "Nanjing", 32.06, 118.80),
    ("cd", "成都", "Chengdu", 30.57, 104.07),
    ("cq", "重庆", "Chongqing", 29.56, 106.55),
    ("wh", "武汉", "Wuhan", 30.59, 114.31),
    ("hk", "香港", "Hong Kong", 22.32, 114.17),
]


def make_regions(apps, schema_editor):
    region = apps.get_model("fleet", "Region")
    for code, name_zh, name_en, latitude, longitude in REGIONS:
        region.objects.get_or_create(
            code=code,
            defaults={"name_zh": name_zh, "name_en": name_en, "latitude": latitude, "longitude": longitude},
        )


class Migration(migrations.Migration):
    dependencies = [("fleet", "0001_initial")]
    operations = [migrations.RunPython(make_regions, migrations.RunPython.noop)]
