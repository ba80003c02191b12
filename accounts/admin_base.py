"""What the admin pages of all rooms share: staff see what `visible_to` shows them, and change it only through services."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList, ChangeListSearchForm
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.text import capfirst

from accounts.columns import with_ages
from accounts.ticked import TickedMixin
from derpmgmt.lib.paging import MOST_ROWS

# Each word of a search is a condition of its own, and databases take only so many of them.
LONGEST_SEARCH = 200
# About one screen, and few enough where each row is a card.
ROWS = 25


class _SearchForm(ChangeListSearchForm):
    """Words of a length that people type."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["q"] = forms.CharField(required=False, strip=False, max_length=LONGEST_SEARCH)


class _ChangeList(ChangeList):
    """A list whose parameters may be anything: what no database can compare is refused as Django refuses a wrong filter."""

    search_form_class = _SearchForm

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        len(self.result_list)  # read now, where a value that no database knows still leads back to the list


class StaffAdmin(TickedMixin):
    """Pages for admins and super admins alike (`User.has_perm`); nothing is deleted here, no list is without bound."""

    show_facets = admin.ShowFacets.NEVER
    list_per_page = ROWS
    list_max_show_all = MOST_ROWS

    def get_list_display(self, request: HttpRequest) -> Any:
        return with_ages(self.model, super().get_list_display(request))

    def get_list_display_links(self, request: HttpRequest, list_display: Any) -> Any:
        links = super().get_list_display_links(request, list_display)
        return links and with_ages(self.model, links)

    def get_sortable_by(self, request: HttpRequest) -> Any:
        return with_ages(self.model, super().get_sortable_by(request))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        title = capfirst(str(self.opts.verbose_name_plural))
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return _ChangeList

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        try:
            return super().get_changelist_instance(request)
        except (OverflowError, ValueError) as error:
            # Numbers of more than 64 bits, moments before the year 1 or after 9999.
            raise IncorrectLookupParameters(error) from error

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).visible_to(request.user)  # type: ignore[attr-defined]

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ReadOnlyMixin:
    """Looking only, for pages and inlines: what stands here is changed by services."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ReadOnlyAdmin(ReadOnlyMixin, StaffAdmin):
    """Rows that only services write."""
