"""Asking the panel's web application as a gate does."""

import io
from dataclasses import dataclass
from wsgiref.util import setup_testing_defaults

from derpmgmt.wsgi import application


@dataclass(frozen=True)
class Response:
    """What the application answered."""

    status_code: int
    headers: dict[str, str]
    content: bytes


def ask(path: str, body: bytes = b"", secret: str | None = None, *, method: str = "POST") -> Response:
    """Send a question with a gate's secret, or none."""
    environ: dict[str, object] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "REMOTE_ADDR": "198.51.100.99",
    }
    if secret is not None:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    setup_testing_defaults(environ)
    began: list[tuple[str, dict[str, str]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_error: object) -> object:
        began.append((status, dict(headers)))
        return None

    content = b"".join(application(environ, start_response))  # type: ignore[arg-type]
    [(status, headers)] = began
    return Response(int(status.split()[0]), headers, content)
