"""Properties are tested without a clock: on a busy machine one example may take any time and still be right."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
