"""Get, make, import, sample or describe data sets.

Examples:
  bixt3d data get modelnet40
  bixt3d data make --root data
  bixt3d data info my_meshes
"""

COMMANDS = ("get", "make", "import-parts", "sample", "info")
