"""A Django application that sends mail: a person confirms an address by a link."""

from django.core import signing
from django.core.mail import send_mail
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse


def sign_up(request: HttpRequest) -> HttpResponse:
    """Send a link to the address; a robot, which fills the hidden field, gets the same answer and no mail."""
    address = request.POST["email"]
    if not request.POST.get("homepage"):
        link = request.build_absolute_uri(reverse("confirm", args=[signing.dumps(address)]))
        send_mail("Confirm your address", f"Open this page:\n{link}\n", None, [address])
    return HttpResponse(status=202)


def confirm(_request: HttpRequest, token: str) -> HttpResponse:
    """Confirm the address for which the link was made."""
    return HttpResponse(f"{signing.loads(token, max_age=86_400)} is confirmed")


urlpatterns = [path("sign-up", sign_up), path("confirm/<token>", confirm, name="confirm")]
