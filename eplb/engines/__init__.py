"""Serving engines' files: recorded expert statistics in, expert placements out.

`eplb.engines.registry` finds the reader and the writer of a format by its name or by a file's
content; there is one module per engine.
"""
