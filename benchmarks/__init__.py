"""Measurements and studies; no part of the package."""
