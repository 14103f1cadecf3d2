"""Reports from records alone: tables, figures and one page in HTML or Markdown. No torch here."""

from fuseforget.report.page import write_report

__all__ = ["write_report"]
