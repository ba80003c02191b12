"""What operators see first: what needs a person, today's figures, and the fleet by region, as the rooms say it.

Few queries, however much there is.
"""

from collections.abc import Iterable
from typing import Any

from django.utils import timezone

from derpmgmt.lib import queue
from derpmgmt.lib.matters import Matter, group_matters, read_matters


def admin_overview(own: Iterable[Matter] = ()) -> dict[str, Any]:
    """What the start page of the admin shows; `own` are matters that only the request itself tells."""
    now = timezone.now()
    found = read_matters(now)
    known = {matter.key for matter in found}
    found += [matter for matter in own if matter.key not in known]
    regions = queue.ask("regions")
    visits = [line.newest_visit_at for line in regions if line.newest_visit_at]
    return {
        "matters": group_matters(found),
        "figures": queue.ask("figures", now),
        "regions": regions,
        "checked_at": max(visits, default=None),
    }
