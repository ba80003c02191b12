"""How servers do, by the JSON API: what the last visit measured, what visits measured over a time, and what was done with a server."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from django.utils import timezone
from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.rooms import Room
from derpmgmt.lib.api import Answer, Input, Listed, Moment, Output, PageQuery, Pk, cut_page
from derpmgmt.lib.charts import RANGES, USUAL, on_grid
from fleet.api import ServerState, find_server
from fleet.models import Server
from fleet.sample_models import LoadSample
from fleet.samples import LOAD
from fleet.server_log import log_of

monitoring = Room("monitoring")

RangeName = Literal["1h", "6h", "24h", "7d", "30d", "90d", "400d"]

_PERCENT = "In per cent; null where nobody knows."


class Measured(Output):
    """What one visit, or those of a time on average, measured of a server. Null is unknown, and never 0."""

    cpu_usage: float | None = Field(
        description=f"Time of all processors that was used. {_PERCENT}", examples=[12.5]
    )
    memory_usage: float | None = Field(description=f"Memory in use. {_PERCENT}", examples=[43.1])
    swap_usage: float | None = Field(description=f"Swap in use. {_PERCENT}", examples=[0.0])
    disk_usage: float | None = Field(
        description=f"The disk with Docker's folder. {_PERCENT}", examples=[58.0]
    )
    load_per_core: float | None = Field(description="The load of one minute, by processor.", examples=[0.35])
    receive_rate: float | None = Field(description="Bytes a second that its public interface receives.")
    send_rate: float | None = Field(description="Bytes a second that its public interface sends.")
    ping_latency: float | None = Field(
        description="Milliseconds that its SSH server takes to answer the panel.", examples=[35.2]
    )
    clock_offset: float | None = Field(description="Milliseconds that its clock is ahead of the panel's.")


class Health(Answer, Measured):
    """How a server does, as of its last visit."""

    server_id: Pk = Field(examples=[3])
    status: ServerState
    is_answering: bool = Field(description="Whether the last contact went well.")
    unhealthy_since: Moment | None = Field(
        description="Since when it does not answer or does not do its work; null unless it is `unhealthy`."
    )
    measured_at: Moment | None = Field(description="When that was measured; null where it never was.")


class Load(Measured):
    """One moment of a time, with the greatest of what is told on average beside it."""

    at: Moment = Field(description="When it begins; it ends with the next one.")
    cpu_usage_max: float | None = Field(description=_PERCENT)
    load_per_core_max: float | None = Field(description="The greatest load of one minute, by processor.")
    receive_rate_max: float | None = Field(description="The most bytes a second that it received.")
    send_rate_max: float | None = Field(description="The most bytes a second that it sent.")


class LoadAnalysis(Answer):
    """A time in equal steps. Where nothing was measured there is no entry."""

    server_id: Pk = Field(examples=[3])
    step_seconds: int = Field(description="How far apart the entries are.", examples=[180])
    load_analysis: list[Load] = Field(description="The oldest first.")


class AnalysisQuery(Input):
    """Which time."""

    range: RangeName = Field(default="24h", description="It ends now.")


class ServerLine(Output):
    """Something that was done with a server."""

    log_id: Pk = Field(examples=[31])
    at: Moment = Field(description="When it was done.")
    action: str = Field(examples=["server.maintenance_started"])
    action_name: str = Field(description="The action in words.", examples=["Maintenance of a server started"])
    actor_id: int | None = Field(description="Who did it; null for the system.")
    reason: str = Field(description="What they gave as the reason; may be empty.")


class ServerLog(Listed):
    """What was done with a server."""

    logs: list[ServerLine] = Field(description="The newest first.")


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


# The figures of a sample by the names that are told, with what becomes of their numbers.
_SHARES = {"cpu_usage": "cpu", "memory_usage": "memory", "swap_usage": "swap", "disk_usage": "disk"}
_NUMBERS = {
    "load_per_core": "load", "receive_rate": "receive_rate", "send_rate": "send_rate", "ping_latency": "answer_ms",
    "clock_offset": "clock_ms",
}  # fmt: skip
_GREATEST = {
    "load_per_core_max": "load_max", "receive_rate_max": "receive_rate_max", "send_rate_max": "send_rate_max",
}  # fmt: skip


@monitoring.reads("/health/{server_id}", Health)
def monitoring_health(request: ApiRequest, server_id: Pk) -> Health:
    """How a server does: what its last visit measured"""
    server = find_server(request, server_id)
    newest = LoadSample.objects.filter(server=server).order_by("-at").first()
    told: dict[str, Any] = {"status": server.status}
    told |= {name: _percent(getattr(newest, figure, None)) for name, figure in _SHARES.items()}
    told |= {name: getattr(newest, figure, None) for name, figure in _NUMBERS.items()}
    return Health(
        server_id=server.pk,
        is_answering=server.silent_since is None,
        unhealthy_since=server.unhealthy_since,
        measured_at=datetime.fromtimestamp(newest.at, UTC) if newest else None,
        **told,
    )


@monitoring.reads("/health/{server_id}/load_analysis", LoadAnalysis)
def monitoring_load_analysis(
    request: ApiRequest, server_id: Pk, query: Annotated[AnalysisQuery, Query()]
) -> LoadAnalysis:
    """What visits measured of a server over a time"""
    server = find_server(request, server_id)
    chosen = RANGES.get(query.range, USUAL)
    return LoadAnalysis(
        server_id=server.pk,
        step_seconds=chosen.step,
        load_analysis=list(_loads(server, chosen.moments(int(timezone.now().timestamp())))),
    )


def _loads(server: Server, moments: range) -> Iterator[Load]:
    shares = _SHARES | {"cpu_usage_max": "cpu_max"}
    figures = shares | _NUMBERS | _GREATEST
    rows = LOAD.rows(server.pk, moments, list(figures.values()))
    columns = on_grid(rows, moments, len(figures))
    for at, *values in zip(moments, *columns, strict=True):
        told: dict[str, Any] = dict(zip(figures, values, strict=True))
        if any(value is not None for value in values):
            percents = {name: _percent(told[name]) for name in shares}
            yield Load(at=datetime.fromtimestamp(at, UTC), **{**told, **percents})


@monitoring.reads("/health/{server_id}/logs", ServerLog)
def monitoring_logs(request: ApiRequest, server_id: Pk, query: Annotated[PageQuery, Query()]) -> ServerLog:
    """What was done with a server"""
    server = find_server(request, server_id)
    rows, cursor = cut_page(log_of(server, request.user), query)
    lines = [
        ServerLine(
            log_id=row.pk,
            at=row.at,
            action=row.action,
            action_name=row.action_text,
            actor_id=row.actor_id,
            reason=str(row.detail.get("reason", "")),
        )
        for row in rows
    ]
    return ServerLog(logs=lines, next_cursor=cursor)
