"""Slide → patch store: the grid, the cell mask, the store itself, and the stage that fills it."""
