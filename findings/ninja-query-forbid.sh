#!/usr/bin/env bash
# django-ninja 1.7.1 with pydantic 2.14.4: a model for query parameters that forbids extra fields takes any parameter all the same.
# Only the parameters that the model names reach it, so it never sees the others: `?page=1&pgae=2` is answered as if the second were not
# there. The same model refuses an unknown field in a JSON body (422, extra_forbidden). Whoever wants unknown parameters refused compares
# request.GET with the operation's names.
# Seen: query 200 {"page": 1}; body 422 with type extra_forbidden and the field's name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check Django==5.2.19 django-ninja==1.7.1 pydantic==2.14.4
cat >seen.py <<'PYTHON'
import json

import django
from django.conf import settings

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
django.setup()

from django.test import Client
from django.urls import path
from ninja import NinjaAPI, Query, Schema
from pydantic import ConfigDict

api = NinjaAPI()


class Page(Schema):
    model_config = ConfigDict(extra="forbid")
    page: int


@api.get("/rows")
def rows(request, query: Query[Page]):
    return {"page": query.page}


@api.post("/rows")
def send(request, body: Page):
    return {"page": body.page}


urlpatterns = [path("", api.urls)]
query = Client().get("/rows?page=1&pgae=2")
body = Client().post("/rows", {"page": 1, "pgae": 2}, content_type="application/json")
print("query:", query.status_code, query.json())
print("body:", body.status_code, body.json())
assert (query.status_code, query.json()) == (200, {"page": 1})
[error] = body.json()["detail"]
assert (body.status_code, error["type"], error["loc"][-1]) == (422, "extra_forbidden", "pgae")
PYTHON
venv/bin/python seen.py
