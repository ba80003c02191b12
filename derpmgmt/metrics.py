"""`/metrics`: what the rooms count, for Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/), behind a token.

The numbers are read from the rows when somebody asks, so that it is all the same which process answers.
"""

import hmac
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import django_rq
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_GET
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from rq.queue import Queue

from derpmgmt.lib import queue
from derpmgmt.lib.matters import CRITICAL, INFORMATION, WARNING, read_matters
from derpmgmt.lib.metrics import Metric, single

PREFIX = "derpmgmt_"


class PanelCollector(Collector):
    """Asks the rooms, and says what belongs to none."""

    def collect(self) -> Iterator[Family]:
        now = timezone.now()
        for metric in [*queue.ask("metrics", now), *_matters(now), *_queues()]:
            family = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
            made = family(PREFIX + metric.name, metric.text, labels=metric.labels)
            for labels, value in metric.samples:
                if value is not None:
                    made.add_metric([str(label) for label in labels], value)
            yield made


def _matters(now: datetime) -> Iterator[Metric]:
    levels = Counter(matter.level for matter in read_matters(now))
    samples = [((level,), levels[level]) for level in (CRITICAL, WARNING, INFORMATION)]
    yield Metric(
        "matters", "What needs a person, as the start page of the admin has it.", ("level",), samples
    )


def _queues() -> Iterator[Metric]:
    lengths, ages = [], []
    now = datetime.now(UTC)
    try:
        with django_rq.get_connection("default") as client:
            for name in settings.QUEUES:
                waiting = Queue(name, connection=client)
                first = next(iter(waiting.get_jobs(0, 1)), None)
                since = first.enqueued_at if first else None
                lengths.append(((name,), waiting.count))
                ages.append(((name,), max((now - since).total_seconds(), 0) if since else 0))
    except RedisError:
        yield single("redis_up", "Whether Redis answers.", 0)
        return
    yield single("redis_up", "Whether Redis answers.", 1)
    yield Metric("queue_jobs", "Jobs that wait.", ("queue",), lengths)
    yield Metric(
        "queue_oldest_seconds", "How long the first job has waited; 0 where none does.", ("queue",), ages
    )


@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    """The page. Answers 404 where no token is set (DERPMGMT_METRICS_TOKEN), 401 for another one."""
    if not settings.METRICS_TOKEN:
        raise Http404
    given = request.headers.get("Authorization", "").encode()
    if not hmac.compare_digest(given, f"Bearer {settings.METRICS_TOKEN}".encode()):
        return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
    registry = CollectorRegistry()
    registry.register(PanelCollector())
    response = HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)
    response["Cache-Control"] = "no-store"
    return response
