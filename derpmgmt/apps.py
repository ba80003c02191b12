from django.apps import AppConfig


class DerpmgmtConfig(AppConfig):
    """The project package: what knows every app."""

    name = "derpmgmt"

    def ready(self) -> None:
        from derpmgmt import flow
        from derpmgmt.lib import queue

        queue.register(flow.JOBS, flow.ANSWERS)
