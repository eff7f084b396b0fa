"""One self-contained HTML file from a record of `reluctant inspect`, or from a study."""

from reluctant.lab.page.write import check_page, write_inspection, write_study

__all__ = ["check_page", "write_inspection", "write_study"]
