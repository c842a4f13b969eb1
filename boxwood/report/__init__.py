"""Results as HTML pages that explain them: one file each, which loads nothing from the network."""

from boxwood.report.evaluation import write_report

__all__ = ["write_report"]
