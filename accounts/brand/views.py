"""What of the brand has an address of its own."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseNotFound
from django.urls import Resolver404, resolve
from django.views.decorators.http import require_safe

from accounts.brand import EXTENSIONS
from accounts.brand.models import BrandPicture

FOLDER = "/brand/"
FOR_EVER = "public, max-age=31536000, immutable"


class BrandMiddleware:
    """Answers what of the brand is the same for everybody before there is a session, so that caches keep it whoever asks."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith(FOLDER):
            return self.get_response(request)
        try:
            view, arguments, named = resolve(request.path_info)
        except Resolver404:
            return HttpResponseNotFound()
        return view(request, *arguments, **named)


@require_safe
def brand_picture(request: HttpRequest, digest: str, kind: str) -> HttpResponse:
    """A picture; under its address there is never another one."""
    types = [content_type for content_type, extension in EXTENSIONS.items() if extension == kind]
    picture = BrandPicture.objects.filter(digest=digest, content_type__in=types).first()
    if picture is None:
        return HttpResponseNotFound()
    response = HttpResponse(bytes(picture.data), content_type=picture.content_type)
    response["Cache-Control"] = FOR_EVER
    response["X-Content-Type-Options"] = "nosniff"
    return response
