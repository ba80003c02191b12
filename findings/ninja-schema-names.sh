#!/usr/bin/env bash
# django-ninja 1.7.1 with Django 5.2.19: in the OpenAPI document two classes that are called alike become one, without a word.
# ninja has pydantic make each operation's schemas by itself, where a nested class has its last name only (two models' `Status` are both
# `Status`), and then puts them together by name: the last one stands for all. Answers are made by the right class, so the document does
# not fit them. Within one operation pydantic tells the two apart; by module and full name they differ.
# Seen: two operations answer with Order.Status (open, paid) and Parcel.Status (sent); the document has one `Status` with "sent" only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check Django==5.2.19 django-ninja==1.7.1 pydantic==2.14.4
cat >seen.py <<'PYTHON'
import django
from django.conf import settings

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
django.setup()

from django.db.models import TextChoices
from django.test import Client
from django.urls import path
from ninja import NinjaAPI, Schema

api = NinjaAPI()


class Order:
    class Status(TextChoices):
        OPEN = "open"
        PAID = "paid"


class Parcel:
    class Status(TextChoices):
        SENT = "sent"


class OrderOut(Schema):
    status: Order.Status


class ParcelOut(Schema):
    status: Parcel.Status


@api.get("/order", response=OrderOut)
def order(request):
    return {"status": "paid"}


@api.get("/parcel", response=ParcelOut)
def parcel(request):
    return {"status": "sent"}


urlpatterns = [path("", api.urls)]
answer = Client().get("/order").json()
schemas = Client().get("/openapi.json").json()["components"]["schemas"]
print("answer:", answer)
print("schemas:", {name: schema.get("enum", schema.get("properties", {}).get("status")) for name, schema in schemas.items()})
assert answer == {"status": "paid"}
assert schemas["OrderOut"]["properties"]["status"]["$ref"].endswith("/Status")
assert schemas["ParcelOut"]["properties"]["status"]["$ref"].endswith("/Status")
assert schemas["Status"]["enum"] == ["sent"] or schemas["Status"].get("const") == "sent"
PYTHON
venv/bin/python seen.py
