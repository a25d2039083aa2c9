"""Settings of a Django project."""

SECRET_KEY = "an example"
ALLOWED_HOSTS = ["shop.example"]
ROOT_URLCONF = "shop"
DEFAULT_FROM_EMAIL = "shop@example.org"
