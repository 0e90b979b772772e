"""Detections of overlapping patches → the cells of a slide."""
