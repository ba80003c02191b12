"""The whole description of the API, tried by schemathesis as every role: no fault, and no answer that the description does not have.

Bounded in number and the same in every run. Half of the requests are about things that there are, so that not all end at 404.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from django.apps import apps
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from django.db.models import AutoField
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from accounts import services
from accounts.models import User
from derpmgmt import api
from derpmgmt.lib import limits
from derpmgmt.lib.api import waiting
from fleet.ssh import HostKey
from tests.api import Api
from tests.factories import UserFactory, WholeRentalFactory
from tests.factories.servers import HOST_KEY
from tests.panel.test_lines import OURS

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

# For each operation and kind of input; of the same every role asks.
EXAMPLES = 4
SCHEMA = schemathesis.openapi.from_dict(api.describe())
SCHEMA.app = WSGIHandler()
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]
WORDS = sorted({operation.path.split("/")[3] for operation in OPERATIONS})
# Fields by which things are named.
NAMES = ("id", "_id")
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


@pytest.fixture(autouse=True)
def _one_connection() -> Iterator[None]:
    """The test's own connection, with its transaction, is not closed between requests."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def asking() -> dict[str, Api]:
    """The API as a person of each role asks it; the customer has a rental with all that one can have."""
    customer = WholeRentalFactory().user
    askers = {"visitor": Api()}
    for role in User.Role.values:
        user = customer if role == User.Role.USER else UserFactory(role=role)
        if user.is_staff:
            services.enrol_second_factor(user=user, secret="JBSWY3DPEHPK3PXP")
        askers[role] = Api(user)
    return askers


def primary_keys() -> list[int]:
    """Of everything that there is."""
    found: set[int] = set()
    for model in apps.get_models():
        if model._meta.app_label in OURS and isinstance(model._meta.pk, AutoField):
            found |= set(model._default_manager.values_list("pk", flat=True)[:3])
    return sorted(found)


def name_what_there_is(values: Any, pick: Callable[[], int]) -> None:
    """Half of the numbers that name a thing become those of one that there is."""
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        if isinstance(value, int) and name.endswith(NAMES):
            values[name] = pick()


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("word", WORDS)
def test_nothing_is_answered_that_the_description_does_not_have(
    word: str, mode: GenerationMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is limited would only be limited.
    monkeypatch.setattr(limits, "_usage", lambda *_, **_options: None)
    # Nor is waited for, within a transaction that no worker sees.
    monkeypatch.setattr(waiting, "_waiting", threading.Semaphore(0))
    # Nobody connects to addresses that were made up.
    for module in ("fleet.ssh.transport", "fleet.api"):
        monkeypatch.setattr(f"{module}.read_host_key", lambda *_: HostKey.from_line(HOST_KEY))
    askers, keys = asking(), primary_keys()
    tried = Counter[str]()
    for operation in OPERATIONS:
        if operation.path.split("/")[3] != word:
            continue

        @hypothesis.seed(11)
        @hypothesis.settings(max_examples=EXAMPLES, database=None, phases=[hypothesis.Phase.generate])
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode), data=st.data())
        def ask(case: Any, data: Any) -> None:
            for values in (case.path_parameters, case.query, case.body):
                name_what_there_is(
                    values, lambda: data.draw(st.one_of(st.sampled_from(keys), st.integers(1, 2**63 - 1)))
                )
            for role, asker in askers.items():
                tried[role] += 1
                hypothesis.note(f"as {role}")
                with transaction.atomic():
                    case.call_and_validate(checks=CHECKS, headers=asker.headers)
                    transaction.set_rollback(True)

        ask()
    assert all(tried[role] for role in askers)
