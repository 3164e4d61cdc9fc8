"""The configuration file: strict YAML in, immutable models out, or every problem with its line.

`model` and `units` are what a policy's own model is written with; `load` reads, `root` joins, `problems` tells.
"""
