"""Slides with known cells, perfect detectors and contracts, for the tests of this package and of its extensions."""
