"""What of the brand has an address of its own."""

from collections.abc import Callable

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotFound
from django.shortcuts import render
from django.urls import Resolver404, resolve
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from accounts.brand import EXTENSIONS, colours, in_language
from accounts.brand.models import ONLY_ROW, BrandPicture, BrandSettings
from accounts.brand.papers import read_paper

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


@require_safe
def brand_style(request: HttpRequest, digest: str) -> HttpResponse:
    """The shades of an accent colour, which stands in the address."""
    accent = f"#{digest.partition('-')[0]}"
    try:
        is_right = colours.digest(accent) == digest
    except ValueError:
        is_right = False
    if not is_right:
        return HttpResponseNotFound()
    response = HttpResponse(colours.stylesheet(accent), content_type="text/css; charset=utf-8")
    response["Cache-Control"] = FOR_EVER
    return response


PAPERS = {"terms": gettext_lazy("Terms of service"), "privacy": gettext_lazy("Privacy policy")}


@require_safe
def paper(request: HttpRequest, name: str) -> HttpResponse:
    """The terms of service or the privacy policy, where their text is ours to show."""
    texts = BrandSettings.objects.filter(pk=ONLY_ROW).values_list(f"{name}_text", f"{name}_text_en").first()
    text = in_language(*texts) if texts else ""
    if not text:
        raise Http404
    language = "zh-Hans" if texts and text == texts[0] else "en"
    context = {"title": PAPERS[name], "blocks": read_paper(text), "language": language}
    return render(request, "accounts/paper.html", context)
