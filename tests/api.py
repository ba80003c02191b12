"""Asking the JSON API in tests."""

import secrets
from datetime import timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from accounts.access import tokens
from accounts.access.models import ApiToken, Scope
from accounts.models import User


class Api:
    """The API as somebody with a token of theirs asks it; without `user`, a stranger. What is answered has `json()`."""

    def __init__(
        self, user: User | None = None, *, scopes: list[Scope] | None = None, language: str = "en"
    ) -> None:
        self.headers = {"Accept-Language": language} if language else {}
        self.token = ""
        # Keys of rows come again from test to test, and with them these texts.
        tokens.forget_known()
        if user is not None:
            # Whatever a service would ask of staff first is another test's.
            self.token = tokens.PREFIX + secrets.token_urlsafe(32)
            ApiToken.objects.create(
                user=user,
                name="test",
                scopes=" ".join(scopes if scopes is not None else tokens.scopes_of(user)),
                token_hash=tokens._hash(self.token),
                hint="test",
                expires_at=timezone.now() + timedelta(days=1),
            )
            self.headers["Authorization"] = f"Bearer {self.token}"

    def get(self, path: str, query: dict[str, Any] | None = None, **headers: str) -> Any:
        """`path` without /api/v1/."""
        return Client().get(f"/api/v1/{path}", query or {}, headers={**self.headers, **_named(headers)})

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """`path` without /api/v1/; the body is sent as JSON."""
        return self._send("post", path, body, headers)

    def patch(self, path: str, body: Any = None, **headers: str) -> Any:
        """The same with PATCH."""
        return self._send("patch", path, body, headers)

    def delete(self, path: str, body: Any = None, **headers: str) -> Any:
        """The same with DELETE."""
        return self._send("delete", path, body, headers)

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        return getattr(Client(), method)(
            f"/api/v1/{path}",
            {} if body is None else body,
            content_type="application/json",
            headers={**self.headers, **_named(headers)},
        )


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
