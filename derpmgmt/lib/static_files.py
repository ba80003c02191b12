"""Static files by names that change with their content."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticFiles(CompressedManifestStaticFilesStorage):
    """Whitenoise's, whose addresses are made once: a page has a dozen, and the manifest is read at the start."""

    def __init__(self) -> None:
        super().__init__()
        self._addresses: dict[tuple[str | None, bool], str] = {}

    def url(self, name: str | None, force: bool = False) -> str:
        found = self._addresses.get((name, force))
        if found is None:
            found = self._addresses[name, force] = super().url(name, force)
        return found
