"""Results as a page: one HTML file that needs no network, for a person who asks why."""

from boxwood.report.evaluation import write_report

__all__ = ["write_report"]
