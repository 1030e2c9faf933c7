"""The institution's rows: read from its own sources, checked, and held as one table in memory.

>>> table = load(config)                    # raises the first problem
>>> inspection = inspect(config)            # collects all of them
"""

from .loading import ColumnSummary, Inspection, inspect, load
from .table import Table

__all__ = ["ColumnSummary", "Inspection", "Table", "inspect", "load"]
