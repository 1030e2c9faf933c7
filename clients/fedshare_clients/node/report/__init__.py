"""The validation report of a run: figures as JSON, a page without network or script, and a model card.

A bank makes it from its own files alone (``customers.parquet`` and ``result.json`` in the run's folder), so nothing
is asked of anybody and nothing leaves the bank.
"""

from .document import Challenger, build_document
from .page import write_report
from .run import holder_importance, report_run

__all__ = ["Challenger", "build_document", "holder_importance", "report_run", "write_report"]
