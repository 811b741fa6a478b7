"""Get a published data set, or make synthetic shapes.

Examples:
  bixt3d data get modelnet40
  bixt3d data make --root data
"""

COMMANDS = ("get", "make")
