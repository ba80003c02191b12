"""An app points only at rows of the rooms below its own, and the database rules hold on every database."""

import re
from itertools import chain
from pathlib import Path

import pytest
from django.apps import apps
from django.db import models

FLOORS = {
    "accounts": 0,
    "fleet": 1,
    "serials": 2,
    "containers": 3,
    "billing": 3,
    "acl": 4,
    "distribution": 4,
}
OURS = [model for app in FLOORS for model in apps.get_app_config(app).get_models(include_auto_created=True)]


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.label)
def test_foreign_keys_point_down(model: type[models.Model]):
    own = model._meta.app_label
    for field in chain(model._meta.fields, model._meta.many_to_many):
        target = getattr(field.remote_field, "model", None)
        if target is None:
            continue
        other = apps.get_model(target)._meta.app_label if isinstance(target, str) else target._meta.app_label
        if other in FLOORS and other != own:
            assert FLOORS[other] < FLOORS[own], f"{model._meta.label}.{field.name} points at {other}"


@pytest.mark.parametrize("app", FLOORS)
def test_pages_of_the_admin_lead_to_rooms_below(app: str):
    root = Path(__file__).parents[2]
    found = set()
    for file in chain((root / app).rglob("*.py"), (root / "templates/admin" / app).rglob("*.html")):
        for other in re.findall(r"admin:([a-z]+)_", file.read_text()):
            if other in FLOORS and other != app and FLOORS[other] >= FLOORS[app]:
                found.add(f"{file.relative_to(root)} leads to {other}")
    assert not found


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.label)
def test_no_unique_rule_has_a_condition_since_mariadb_would_drop_it(model: type[models.Model]):
    for constraint in model._meta.constraints:
        if isinstance(constraint, models.UniqueConstraint):
            assert constraint.condition is None, constraint.name
