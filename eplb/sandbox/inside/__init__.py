"""The sandboxed side of an evaluation: a process that imports torch once and forks for each run.

The modules here run without the rest of the project, which the sandbox hides: the folder is
started as a program of its own (`python eplb/sandbox/inside`). Only `protocol` is used on both
sides.
"""
