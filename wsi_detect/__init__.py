"""Cervical-cytology slide detector: from the slide file to a reviewed cell map."""

__version__ = "0.1.0"
