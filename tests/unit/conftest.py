"""What all unit tests share."""

from hypothesis import settings

# The whole of the unit tests takes less than 10 s; `--hypothesis-profile=default` looks further.
settings.register_profile("quick", max_examples=10, deadline=None)
settings.load_profile("quick")
