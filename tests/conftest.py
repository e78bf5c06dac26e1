"""What holds for every test: no test fails because the machine is slow."""

from hypothesis import settings

settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")
