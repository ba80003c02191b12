import re
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.html import escape

from acl.maps import services
from acl.maps.models import AclConfig, AclEvent, MapRegion
from fleet.models import Region
from serials.rentals.models import Rental
from tests.factories import RelayFactory, RentalFactory, UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    rental = RentalFactory()
    for slot in (1, 2, 3):
        RelayFactory(rental=rental, slot=slot)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    return rental


def fragment(rental: Rental) -> str:
    request = RequestFactory().get("/")
    panel = services.describe_map(rental=rental, now=timezone.now())
    return render_to_string("acl/maps/_map.html", {"map": panel}, request=request)


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_fragment_shows_three_forms_when_all_is_well(rental: Rental, language: str) -> None:
    with translation.override(language):
        text = fragment(rental)
        panel = services.describe_map(rental=rental, now=timezone.now())
    for tab in panel.tabs:
        assert escape(tab.text) in text
        assert reverse("acl:map-download", args=[tab.file_format.value]) in text
        assert reverse("acl:map-copied", args=[tab.file_format.value]) in text
    # One countdown is enough: that of the rental.
    assert panel.config
    without_map = re.sub("<pre.*?</pre>", "", text, flags=re.DOTALL)
    assert f"{timezone.localtime(panel.config.ends_at):%Y-%m-%d %H:%M}" not in without_map
    # The content security policy forbids all of these.
    assert not re.search(r"\son[a-z]+=|style=|<script(?! src=)", text)


def test_fragment_costs_the_same_when_there_are_more_relays(rental: Rental) -> None:
    def count() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            services.describe_map(rental=Rental.objects.get(pk=rental.pk), now=timezone.now())
        return len(queries)

    before = count()
    for slot in range(4, 9):
        RelayFactory(rental=rental, slot=slot)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    assert len(services.describe_map(rental=rental, now=timezone.now()).regions) == 8
    assert count() == before <= 8


def test_fragment_escapes_when_a_region_has_a_hostile_name(rental: Rental) -> None:
    Region.objects.update(name_en="</pre><script>x</script>", name_zh="x")
    RelayFactory(rental=rental, slot=4)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    assert "<script>" not in fragment(rental)


def test_howto_names_the_customers_regions_when_he_has_a_map(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    page = client.get(reverse("acl:map-howto"), headers={"Accept-Language": "en"})
    assert "sh1: 8.2ms   (Shanghai 1)" in page.text
    assert page.text.count('<li class="mb-3">') == 10
    assert "1.84" in page.text


def test_history_shows_versions_and_downloads_when_there_are_some(client: Client, rental: Rental) -> None:
    other = RentalFactory()
    services.record_event(rental=other, kind="downloaded", browser="strangers browser")
    admin_user = UserFactory(email="boss@example.com", role="admin")
    services.record_event(
        rental=rental, kind="made", version=2, by=admin_user, reason=services.REGION_CHANGED
    )
    services.record_event(
        rental=rental, kind="downloaded", version=2, by=rental.user, browser="<b>Firefox</b>"
    )
    client.force_login(rental.user)
    page = client.get(reverse("acl:map-history"), headers={"Accept-Language": "en"})
    assert [row.record.kind for row in page.context["table"].page.object_list] == [
        "downloaded",
        "made",
        "made",
    ]
    assert "&lt;b&gt;Firefox" in page.text
    assert services.REGION_CHANGED in page.text
    assert 'data-label="Version"' in page.text
    for hidden in ("strangers browser", "boss@example.com"):
        assert hidden not in page.text


def test_history_costs_the_same_when_it_is_long(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    url = reverse("acl:map-history")
    client.get(url)

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert client.get(url).status_code == 200
        return len(queries)

    before = count()
    for _ in range(60):
        services.record_event(rental=rental, kind="downloaded", version=1, by=rental.user)
    assert count() == before
    second = client.get(url, {"page": "3"})
    assert len(second.context["table"].page.object_list) == 11
    assert client.get(url, {"page": "99", "sort": "nonsense"}).status_code == 200


@pytest.mark.parametrize("model", [AclConfig, AclEvent, MapRegion])
def test_admin_only_reads_when_staff_looks(model: Any, rental: Rental, rf: RequestFactory) -> None:
    view = admin.site.get_model_admin(model)
    request: HttpRequest = rf.get("/")
    request.user = UserFactory(role="admin")
    assert view.has_view_permission(request)
    assert not view.has_add_permission(request)
    assert not view.has_change_permission(request)
    assert not view.has_delete_permission(request)
    row = model.objects.first()
    page = view.changelist_view(request).render()
    assert reverse("admin:accounts_user_change", args=[rental.user_id]) in page.text
    assert reverse("admin:serials_rental_change", args=[rental.pk]) in page.text
    assert rental.user.email in view.change_view(request, str(row.pk)).render().text
    request.user = rental.user
    assert not view.has_view_permission(request)


@pytest.mark.parametrize("model", [AclConfig, AclEvent, MapRegion])
def test_admin_list_costs_the_same_when_it_is_long(model: Any, rf: RequestFactory) -> None:
    view = admin.site.get_model_admin(model)
    request: HttpRequest = rf.get("/")
    request.user = UserFactory(role="admin")

    def count() -> int:
        rental = RentalFactory()
        RelayFactory(rental=rental)
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED, by=rental.user)
        with CaptureQueriesContext(connection) as queries:
            view.changelist_view(request).render()
        return len(queries)

    count()
    assert count() == count()
