"""Specialisations: networks of a front made deployable, checked, and handed over as folders."""
