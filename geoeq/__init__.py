"""Graph neural networks for data in space whose symmetry is exact, soft or absent, layer by layer.

Importing ``geoeq`` alone is cheap: nothing else is loaded until one of its packages is imported.

>>> import geoeq
>>> isinstance(geoeq.__version__, str)
True
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("geoeq")
except PackageNotFoundError:  # a checkout on PYTHONPATH that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
