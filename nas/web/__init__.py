"""The pages of the service: rendered here, alive by events, complete without JavaScript but for what moves."""

from nas.web.pages import router, site_of

__all__ = ["router", "site_of"]
