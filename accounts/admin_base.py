"""What the admin pages of all rooms share: staff see what `visible_to` shows them, and change it only through services."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList, ChangeListSearchForm
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _

from accounts.acts import ActsMixin
from derpmgmt.lib.paging import MOST_ROWS

# Each word of a search is a condition of its own, and databases take only so many of them.
LONGEST_SEARCH = 200


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


class StaffAdmin(ActsMixin):
    """Pages for admins and super admins alike (`User.has_perm`); nothing is deleted here, no list is without bound."""

    show_facets = admin.ShowFacets.NEVER
    list_per_page = MOST_ROWS
    list_max_show_all = MOST_ROWS

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

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """An action takes as many rows as a page has, so that no request works without an end; more are refused in a sentence."""
        if request.POST.get("select_across", "0") != "0":
            is_too_much = len(queryset.order_by().values_list("pk")[: MOST_ROWS + 1]) > MOST_ROWS
        else:
            is_too_much = len(request.POST.getlist(ACTION_CHECKBOX_NAME)) > MOST_ROWS
        if not is_too_much:
            return super().response_action(request, queryset, *args, **kwargs)
        text = _(
            "At most %(most)d rows are done at once, and nothing was done: narrow the list down, or go page by page."
        )
        messages.error(request, text % {"most": MOST_ROWS})
        return HttpResponseRedirect(request.get_full_path())

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
